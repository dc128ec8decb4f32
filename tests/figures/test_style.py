from collections.abc import Mapping
from itertools import combinations

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D

from gradlab.figures.style import (
    LOOKS,
    Look,
    draw_range,
    legend_above,
    legend_over,
    looks,
    paper_axes,
    paper_style,
)
from gradlab.models.presets import ABLATIONS, ARCHITECTURES, TABLE_4

# Machado, Oliveira and Fernandes 2009, severity 1.0: linear RGB as each deficiency sees it.
VISION = {
    "normal": np.eye(3),
    "protan": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deutan": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritan": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def cielab(color: str, vision: str = "normal") -> np.ndarray:
    rgb = np.array(to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.array(VISION[vision]) @ linear, 0, 1)
    x, y, z = np.cbrt(TO_XYZ @ seen / np.array([0.9505, 1.0, 1.089]))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


OF_THE_PAPER = [*[*ARCHITECTURES][:5], *ABLATIONS]


def test_every_named_architecture_has_its_look() -> None:
    assert set(LOOKS) == {*ARCHITECTURES, *ABLATIONS}
    assert len({look.marker for look in LOOKS.values()}) == len(LOOKS)


STRANGERS = [f"mine {number}" for number in range(12)]
EIGHT = {
    "table 4 and Post-LN": [*TABLE_4, "post-ln"],
    "four named, four strangers": [*ARCHITECTURES][:4] + STRANGERS[:4],
    "eight strangers": STRANGERS[:8],
}


def check_apart(found: Mapping[str, Look], vision: str, least: float) -> None:
    for one, other in combinations(found, 2):
        distance = np.linalg.norm(
            cielab(found[one].color, vision) - cielab(found[other].color, vision)
        )
        assert distance > least, f"{one} and {other} look alike: {distance:.0f}"


@pytest.mark.parametrize("vision", VISION)
def test_colours_stay_apart_in_every_kind_of_vision(vision: str) -> None:
    check_apart({name: LOOKS[name] for name in OF_THE_PAPER}, vision, 25)
    check_apart(LOOKS, vision, 15)


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("names", EIGHT.values(), ids=EIGHT)
def test_eight_architectures_are_told_apart(names: list[str], vision: str) -> None:
    found = looks(names)
    assert list(found) == names
    assert len({look.marker for look in found.values()}) == 8
    check_apart(found, vision, 20)


def test_colours_stay_apart_in_grey() -> None:
    paper, everybody = (
        sorted(cielab(LOOKS[name].color)[0] for name in names)
        for names in (OF_THE_PAPER[:5], OF_THE_PAPER)
    )
    assert np.diff(paper).min() > 12
    assert np.diff(everybody).min() > 5
    assert max(cielab(look.color)[0] for look in LOOKS.values()) < 80, "too light for white paper"


def test_a_dozen_strangers_differ_in_colour_or_marker() -> None:
    found = looks(STRANGERS)
    assert len({(look.color, look.marker) for look in found.values()}) == 12
    assert [look.label for look in found.values()] == STRANGERS


def test_strangers_get_looks_of_their_own() -> None:
    found = looks(["mine", "pre-ln", "yours", "mine"])
    assert found["pre-ln"] is LOOKS["pre-ln"]
    assert found["mine"].label == "mine"
    assert len({look.color for look in found.values()}) == 3


def test_the_style_ends_with_its_context() -> None:
    before = mpl.rcParams["pdf.fonttype"]
    with paper_style():
        assert mpl.rcParams["pdf.fonttype"] == 42
    assert mpl.rcParams["pdf.fonttype"] == before


@pytest.mark.parametrize("count", [1, 3, 4, 5, 7])
def test_a_legend_reads_row_by_row(count: int) -> None:
    ax = paper_axes()
    legend_above(ax, [Line2D([], [], label=str(number)) for number in range(count)])
    ax.get_figure(root=True).draw_without_rendering()
    texts = ax.get_legend().get_texts()
    places = [
        (-round(box.y0), box.x0, t.get_text()) for t in texts if (box := t.get_window_extent())
    ]
    assert [text for _, _, text in sorted(places)] == [str(number) for number in range(count)]


@pytest.mark.parametrize("count", [1, 4, 9])
def test_a_legend_over_panels_is_inside_the_figure(count: int) -> None:
    with paper_style():
        figure = plt.figure(figsize=(6.8, 2.0), layout="constrained")
        ax = figure.add_subplot()
        handles = [Line2D([], [], label=f"an architecture of mine {n}") for n in range(count)]
        legend_over(figure, handles)
        figure.draw_without_rendering()
    box = figure.legends[0].get_window_extent()
    assert figure.bbox.padded(0.01).containsx(box.x0)
    assert figure.bbox.padded(0.01).containsx(box.x1)
    assert figure.bbox.padded(0.01).containsy(box.y1)
    assert ax.get_tightbbox().y1 <= box.y0
    assert ax.bbox.height == pytest.approx(1.6 * figure.dpi, abs=0.2 * figure.dpi)


def test_the_range_of_a_point_without_neighbours_is_seen() -> None:
    ax = paper_axes()
    nan = float("nan")
    draw_range(ax, range(5), [1.0, 2.0, nan, 3.0, nan], [2.0, 3.0, nan, 4.0, nan], "#000000")
    _, bars = ax.collections
    assert bars.get_segments()[0].tolist() == [[3.0, 3.0], [3.0, 4.0]]
    assert len(bars.get_segments()) == 1
    draw_range(paper_axes(), [1.0], [2.0], [3.0], "#000000")


def test_a_figure_of_somebody_elses_keeps_its_height() -> None:
    handles = [Line2D([], [], label=f"an architecture of mine {n}") for n in range(9)]
    figure, ax = plt.subplots()
    height = figure.get_figheight()
    legend_above(ax, handles)
    assert figure.get_figheight() == height
    ours = paper_axes()
    height = ours.figure.get_figheight()
    legend_above(ours, handles)
    assert ours.figure.get_figheight() > height
