import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb

from gradlab.errors import GradlabError
from gradlab.figures.relative_gradients import (
    RATIOS,
    relative_gradient,
    relative_panels,
)
from gradlab.figures.save import rendered
from gradlab.figures.style import figure_of

OPS = ("q", "out", "fc2")
STARS = "Layer\n★ distinguished from 1 (95 % interval)"


def relative(
    n_layers: int = 4, archs: tuple[str, ...] = ("normformer",), seeds: int = 2
) -> pd.DataFrame:
    """Seeds at 1/2 and 2 times the cell's ratio, (row + 1) / (layer + 1)."""
    rows = [
        {
            "baseline": "pre-ln",
            "arch": arch,
            "seed": seed,
            "window": window,
            "first": first,
            "last": first + 49,
            "n_layers": n_layers,
            "op": op,
            "layer": layer,
            "left_out": 0,
            "relative": 1.0,
            "relative_baseline": 1.0,
            "ratio": (row + 1) / (layer + 1) * 4.0 ** (seed - (seeds - 1) / 2),
        }
        for arch in archs
        for seed in range(seeds)
        for window, first in (("early", 100), ("late", 250))
        for row, op in enumerate(OPS)
        for layer in range(n_layers)
    ]
    return pd.DataFrame(rows)


def cells(ax: Axes) -> Any:
    (mesh,) = [c for c in ax.collections if type(c).__name__ == "QuadMesh"]
    return mesh.get_array()


def numbers(ax: Axes) -> dict[tuple[int, int], str]:
    """What stands in the cells, by (layer, row)."""
    places = {text: text.get_position() for text in ax.texts if text.get_text()}
    return {(int(x), int(y)): text.get_text() for text, (x, y) in places.items()}


def stars(ax: Axes) -> set[tuple[int, int]]:
    """The cells with a star, as (layer, row)."""
    return {(int(x), int(y)) for line in ax.lines for x, y in line.get_xydata()}


def grey(color: Any) -> float:
    """Lightness as the eye has it, of 1."""
    rgb = np.array(color[:3])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(116 * np.cbrt(linear @ [0.2126, 0.7152, 0.0722]) - 16) / 100


def test_a_cell_is_the_logarithm_of_the_mean_ratio() -> None:
    ax = relative_gradient(relative())
    expected = [[math.log((row + 1) / (layer + 1)) for layer in range(4)] for row in range(3)]
    np.testing.assert_allclose(cells(ax).reshape(3, 4), expected)
    assert [label.get_text() for label in ax.get_yticklabels()] == list(OPS)
    assert ax.get_ylim()[0] > ax.get_ylim()[1], "the first op stands on top"


def test_the_scale_of_colours_is_centred_on_one() -> None:
    ax = relative_gradient(relative())
    (mesh,) = [c for c in ax.collections if type(c).__name__ == "QuadMesh"]
    assert mesh.norm.vmin == -mesh.norm.vmax
    assert mesh.norm.vmax == pytest.approx(math.log(4))
    same = relative_gradient(relative().assign(ratio=1.01))
    assert same.collections[0].norm.vmax == pytest.approx(math.log(1.25))


def test_half_and_twice_are_equally_dark_and_differ_in_hue() -> None:
    lightness = np.array([grey(RATIOS(share)) for share in np.linspace(0, 1, 33)])
    assert (np.diff(lightness[:17]) > 0).all()
    assert (np.diff(lightness[16:]) < 0).all()
    assert np.abs(lightness - lightness[::-1]).max() < 0.06
    assert lightness[16] > 0.9
    assert lightness[[0, -1]].max() < 0.45
    low, high = np.array(RATIOS(0.1)), np.array(RATIOS(0.9))
    assert low[2] > low[0] + 0.2, "blue below 1"
    assert high[0] > high[2] + 0.2, "orange above"


def test_numbers_stand_in_their_cells_and_can_be_read() -> None:
    ax = relative_gradient(relative())
    assert numbers(ax)[(3, 0)] == "0.25"
    assert numbers(ax)[(0, 0)] == "1.00"
    assert numbers(ax)[(1, 2)] == "1.50"
    (mesh,) = [c for c in ax.collections if type(c).__name__ == "QuadMesh"]
    for text in ax.texts:
        layer, row = map(int, text.get_position())
        behind = grey(RATIOS(mesh.norm(cells(ax).reshape(3, 4)[row, layer])))
        assert abs(behind - grey(to_rgb(text.get_color()))) > 0.4


@pytest.mark.parametrize(
    ("ratio", "written"),
    [
        *((0.003, "3e-03"), (0.0151, "0.02"), (0.62, "0.62"), (1.0, "1.00"), (1.5, "1.50")),
        *((9.996, "10.0"), (13.06, "13.1"), (131.2, "131"), (4567.0, "5e+03")),
    ],
)
def test_numbers_have_equal_digits(ratio: float, written: str) -> None:
    assert set(numbers(relative_gradient(relative(seeds=1).assign(ratio=ratio))).values()) == {
        written
    }


@pytest.mark.parametrize("n_layers", [1, 4, 8, 12, 24])
def test_numbers_fit(n_layers: int) -> None:
    ax = relative_gradient(relative(n_layers))
    figure = figure_of(ax)
    figure.draw_without_rendering()
    assert len(ax.texts) == 3 * n_layers
    width = ax.get_window_extent().width / n_layers
    assert max(text.get_window_extent().width for text in ax.texts) < 0.92 * width


def test_forty_eight_layers_of_eight_architectures_have_colours_only() -> None:
    names = tuple(f"variant {number}" for number in range(8))
    figure = relative_panels(relative(48, archs=names))
    figure.draw_without_rendering()
    assert len(figure.axes) == 8 + 1
    assert not any(ax.texts for ax in figure.axes)
    assert figure.axes[0].get_xlim() == (0, 48)


@pytest.mark.parametrize("n_layers", [1, 4, 12, 48])
def test_the_scale_of_colours_can_be_read(n_layers: int) -> None:
    figure = relative_panels(relative(n_layers))
    figure.draw_without_rendering()
    bar = figure.axes[-1]
    label = bar.yaxis.label.get_window_extent()
    assert 0 <= label.y0 < label.y1 <= figure.bbox.y1
    ticks = sorted(tick.get_window_extent().y0 for tick in bar.get_yticklabels())
    height = bar.get_yticklabels()[0].get_window_extent().height
    assert min(np.diff(ticks)) > 0.8 * height


def test_panels_share_one_scale_and_say_what_they_are() -> None:
    figure = relative_panels(relative(archs=("normformer", "post-ln")), window="late")
    figure.draw_without_rendering()
    *panels, bar = figure.axes
    titles = [ax.get_title(loc="left") for ax in panels]
    assert titles == ["NormFormer / Pre-LN, 2 seeds", "Post-LN / Pre-LN, 2 seeds"]
    assert len({(ax.collections[0].norm.vmin, ax.collections[0].norm.vmax) for ax in panels}) == 1
    assert bar.get_ylabel() == "Gradient L1 / loss,\nratio, steps 250–299"
    labels = [label.get_text() for label in bar.get_yticklabels()]
    assert labels == ["1/4", "1/2", "1", "2", "4"]
    assert figure.get_supxlabel() == STARS
    many = relative_panels(relative(archs=("normformer", "post-ln", "peri-ln", "deepnorm")))
    places = {
        (ax.get_subplotspec().rowspan.start, ax.get_subplotspec().colspan.start)
        for ax in many.axes[:4]
    }
    assert places == {(0, 0), (0, 1), (1, 0), (1, 1)}
    single = relative_panels(relative(seeds=1)).axes[0]
    assert single.get_title(loc="left") == "NormFormer / Pre-LN, 1 seed"


def test_a_cell_without_a_ratio_is_of_a_grey_that_no_ratio_has() -> None:
    table = relative()
    table.loc[(table["op"] == "out") & (table["layer"] == 2), "ratio"] = math.nan
    ax = relative_gradient(table)
    assert np.ma.getmaskarray(cells(ax)).reshape(3, 4).sum() == 1
    assert (2, 1) not in numbers(ax)
    assert ax.get_xlabel() == f"{STARS}; grey: no ratio"
    behind = np.array(ax.get_facecolor()[:3])
    scale = np.array([RATIOS(share)[:3] for share in np.linspace(0, 1, 64)])
    assert np.abs(scale - behind).sum(axis=1).min() > 0.1


def test_cells_that_are_distinguished_from_one_have_a_star() -> None:
    table = relative(seeds=3)
    certain = (table["op"] == "q") | (table["layer"] == 1)
    table.loc[certain, "ratio"] = 2.0 + 0.01 * table["seed"]
    table.loc[(table["op"] == "out") & (table["layer"] == 3) & (table["seed"] > 0), "ratio"] = None
    ax = relative_gradient(table)
    rest = {(layer, row) for layer in (0, 2, 3) for row in (1, 2)}
    assert stars(ax) == {(layer, row) for layer in range(4) for row in range(3)} - rest
    assert ax.get_xlabel() == STARS
    figure_of(ax).draw_without_rendering()
    written = [text.get_window_extent() for text in ax.texts]
    for line in ax.lines:
        for x, y in ax.transData.transform(line.get_xydata()):
            assert not any(box.contains(x, y) for box in written)


def test_one_seed_has_no_intervals_and_says_so() -> None:
    ax = relative_gradient(relative(seeds=1))
    assert stars(ax) == set()
    assert ax.get_xlabel() == "Layer\none seed: no intervals"


def test_of_a_loop_of_the_users_own_no_seed_is_told() -> None:
    theirs = relative(seeds=1)
    theirs["arch"] = theirs["arch"].map(lambda arch: f"runs/{arch}")
    figure = relative_panels(theirs)
    said = " ".join([figure.get_supxlabel(), *(ax.get_title("left") for ax in figure.axes)])
    assert "one run of each: no intervals" in said
    assert "seed" not in said


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(GradlabError, match="unknown window 'middle'"):
        relative_panels(relative(), window="middle")
    with pytest.raises(GradlabError, match="unknown architecture 'normfomer'"):
        relative_gradient(relative(), arch="normfomer")
    with pytest.raises(GradlabError, match="no gradient has a finite ratio"):
        relative_panels(relative().assign(ratio=math.nan))


def test_it_is_drawn_the_same_each_time() -> None:
    first, second = (rendered(relative_panels(relative()), "svg") for _ in range(2))
    assert first == second
