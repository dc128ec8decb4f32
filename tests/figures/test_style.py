from itertools import combinations

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D

from gradlab.figures.style import LOOKS, legend_above, looks, paper_axes, paper_style
from gradlab.models.presets import ARCHITECTURES

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


def test_every_named_architecture_has_its_look() -> None:
    assert set(LOOKS) == set(ARCHITECTURES)
    assert len({look.marker for look in LOOKS.values()}) == len(LOOKS)


@pytest.mark.parametrize("vision", VISION)
def test_colours_stay_apart_in_every_kind_of_vision(vision: str) -> None:
    for one, other in combinations(LOOKS, 2):
        distance = np.linalg.norm(
            cielab(LOOKS[one].color, vision) - cielab(LOOKS[other].color, vision)
        )
        assert distance > 25, f"{one} and {other} look alike: {distance:.0f}"


def test_colours_stay_apart_in_grey() -> None:
    lightness = sorted(cielab(look.color)[0] for look in LOOKS.values())
    assert np.diff(lightness).min() > 12
    assert lightness[-1] < 80, "too light to print on white"


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
