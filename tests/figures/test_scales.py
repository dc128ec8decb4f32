import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from drawn import points
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection

from gradlab.errors import GradlabError
from gradlab.figures.save import rendered
from gradlab.figures.scales import scale_by_layer, scale_panels
from gradlab.figures.style import LOOKS, figure_of, looks, paper_axes

OPS = ("head_scale", "attn_out_norm", "ffn_mid_norm")


ENTRIES = {"head_scale": 4, "attn_out_norm": 64, "ffn_mid_norm": 256}


def entries(
    n_layers: int = 6, seeds: int = 2, archs: tuple[str, ...] = ("normformer",)
) -> pd.DataFrame:
    """Entries of layer l, seed s lie evenly from 0 to 1, plus l / 10 + s."""
    parts = [
        pd.DataFrame({"index": np.arange(ENTRIES[op])}).assign(
            size="nano",
            arch=arch,
            seed=seed,
            n_layers=n_layers,
            op=op,
            param=f"blocks.{layer}.{op}.weight",
            layer=layer,
            step=9,
            value=np.linspace(0, 1, ENTRIES[op]) + layer / 10 + seed,
        )
        for arch in archs
        for seed in range(seeds)
        for op in OPS
        for layer in range(n_layers)
    ]
    return pd.concat(parts, ignore_index=True)


def boxes(ax: Axes) -> list[tuple[float, float, float]]:
    """Middle, bottom and top of the widest boxes, which hold the middle half, by layer."""
    found = []
    for collection in ax.collections:
        if isinstance(collection, PatchCollection):
            extents = [path.get_extents() for path in collection.get_paths()]
            widest = [box for box in extents if box.width > 0.99 * max(b.width for b in extents)]
            low, high = min(box.y0 for box in widest), max(box.y1 for box in widest)
            found.append(((widest[0].x0 + widest[0].x1) / 2, low, high))
    return found


def test_the_widest_boxes_hold_the_middle_half_of_all_seeds_entries() -> None:
    table = entries()
    found = boxes(scale_by_layer(table, op="ffn_mid_norm"))
    assert len(found) == 6
    for layer, (x, low, high) in enumerate(found):
        own = table[(table["op"] == "ffn_mid_norm") & (table["layer"] == layer)]["value"]
        assert x == pytest.approx(layer)
        assert (low, high) == pytest.approx(tuple(own.quantile([0.25, 0.75])), abs=0.02)


def test_a_few_entries_are_points_each_seeds_beside_the_others() -> None:
    table = entries()
    ax = scale_by_layer(table, op="head_scale")
    assert not boxes(ax)
    drawn = points(ax, LOOKS["normformer"].color)
    own = table[table["op"] == "head_scale"]
    np.testing.assert_allclose(sorted(drawn[:, 1]), sorted(own["value"]))
    assert np.abs(drawn[:, 0] - drawn[:, 0].round()).max() < 0.5
    assert len(set(drawn[:, 0].round(6))) == 6 * 2


def test_the_labels_say_what_is_drawn() -> None:
    ax = scale_by_layer(entries())
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Layer", "FFN LN γ")
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert set(texts) == {"middle half of the entries", "¾, ⅞, … of them", "initial value"}
    few = scale_by_layer(entries(), op="head_scale")
    texts = [text.get_text() for text in few.get_legend().get_texts()]
    assert set(texts) == {"an entry", "initial value"}
    assert set(few.lines[0].get_ydata()) == {1}


@pytest.mark.parametrize(
    ("of", "title"),
    [
        ({}, "Entries of the learned scales at step 9: NormFormer, 2 seeds"),
        ({"seeds": 1}, "Entries of the learned scales at step 9: NormFormer, seed 0"),
        ({"archs": ("normformer", "pre-ln")}, "Entries of the learned scales at step 9, 2 seeds"),
    ],
)
def test_the_panels_say_what_they_show(of: dict[str, Any], title: str) -> None:
    assert scale_panels(entries(2, **of)).get_suptitle() == title


def test_panels_are_ops_by_architectures() -> None:
    archs = ("normformer", "normformer-resscale")
    figure = scale_panels(entries(archs=archs))
    figure.draw_without_rendering()
    grid = np.array(figure.axes).reshape(2, 3)
    titles = [ax.get_title(loc="left") for ax in grid[0]]
    assert titles == ["FFN LN γ", "Post-attention LN γ", "Head scale γ"]
    assert [ax.get_ylabel() for ax in grid[:, 0]] == ["NormFormer", "NormFormer + λ"]
    assert [ax.get_xlabel() for ax in grid[1]] == ["Layer"] * 3
    assert len({ax.get_ylim() for ax in grid.flat}) == 1
    legend = figure.legends[0].get_window_extent()
    assert all(not legend.overlaps(ax.get_window_extent()) for ax in figure.axes)


def test_an_op_that_an_architecture_lacks_has_an_empty_place() -> None:
    archs = ("normformer", "mine")
    table = entries(archs=archs)
    table = table[(table["arch"] == "normformer") | (table["op"] == "head_scale")]
    figure = scale_panels(table)
    figure.draw_without_rendering()
    color = [LOOKS["normformer"].color, looks(archs)["mine"].color]
    drawn = [bool(boxes(ax)) or any(len(points(ax, c)) for c in color) for ax in figure.axes]
    assert drawn == [True, True, True, False, False, True]


@pytest.mark.parametrize(
    ("n_layers", "archs"),
    [
        (1, 1),
        (4, 3),
        (48, 1),
        *(pytest.param(*n, marks=pytest.mark.long) for n in ((12, 3), (48, 2))),
    ],
)
def test_any_depth_fits(n_layers: int, archs: int) -> None:
    names = tuple(f"an architecture with a long name {n}" for n in range(archs))
    figure = scale_panels(entries(n_layers, archs=names))
    figure.draw_without_rendering()
    for ax in figure.axes:
        low, high = ax.get_xlim()
        assert low < -0.3
        assert n_layers - 0.7 < high
        assert all(tick == round(tick) for tick in ax.get_xticks())
        label = ax.yaxis.label.get_window_extent()
        assert label.height < 1.3 * ax.get_window_extent().height


def test_layers_without_a_finite_entry_are_gaps() -> None:
    table = entries()
    table.loc[table["layer"] == 2, "value"] = math.nan
    assert [round(x) for x, _, _ in boxes(scale_by_layer(table))] == [0, 1, 3, 4, 5]
    with pytest.raises(GradlabError, match="nothing to draw"):
        scale_panels(table.assign(value=math.nan))


def test_what_is_not_there_is_refused() -> None:
    table = entries(archs=("normformer", "mine"))
    with pytest.raises(GradlabError, match="unknown op 'head_scales': did you mean 'head_scale'"):
        scale_by_layer(table, op="head_scales")
    with pytest.raises(GradlabError, match="unknown architecture 'normfomer'"):
        scale_by_layer(table, arch="normfomer")
    some = table[(table["arch"] == "mine") | (table["op"] == "head_scale")]
    with pytest.raises(GradlabError, match="normformer has no finite ffn_mid_norm"):
        scale_by_layer(some, arch="normformer")


def test_draws_on_given_axes() -> None:
    ax = paper_axes()
    assert scale_by_layer(entries(), ax=ax) is ax
    figure_of(ax).draw_without_rendering()


def test_it_is_drawn_the_same_each_time() -> None:
    first, second = (rendered(scale_panels(entries(2)), "svg") for _ in range(2))
    assert first == second


@pytest.mark.parametrize("count", [5, 9])
def test_more_than_four_ops_take_several_rows(count: int) -> None:
    names = [f"norm_{place}" for place in range(count)]
    one = entries(2, 1)
    table = pd.concat([one[one["op"] == "ffn_mid_norm"].assign(op=name) for name in names])
    figure = scale_panels(table)
    figure.draw_without_rendering()
    titles = [ax.get_title(loc="left") for ax in figure.axes if ax.get_title(loc="left")]
    assert titles == names
