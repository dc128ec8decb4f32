import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

from gradlab.analyses.scales import QUANTILES
from gradlab.errors import GradlabError
from gradlab.figures.save import save
from gradlab.figures.scales import scale_by_layer, scale_panels
from gradlab.figures.style import LOOKS, figure_of, paper_axes

OPS = ("head_scale", "attn_out_norm", "ffn_mid_norm")


def distributions(
    n_layers: int = 6, seeds: int = 2, archs: tuple[str, ...] = ("normformer",)
) -> pd.DataFrame:
    """Entries of layer l, seed s lie evenly from 0 to 1, plus l / 10 + s."""
    rows = [
        {
            "size": "nano",
            "arch": arch,
            "seed": seed,
            "n_layers": n_layers,
            "op": op,
            "param": f"blocks.{layer}.{op}.weight",
            "layer": layer,
            "step": 9,
            "entries": 100,
            "left_out": 0,
            "mean": 0.5 + layer / 10 + seed,
            **{name: share + layer / 10 + seed for name, share in QUANTILES.items()},
        }
        for arch in archs
        for seed in range(seeds)
        for op in OPS
        for layer in range(n_layers)
    ]
    return pd.DataFrame(rows)


def boxes(ax: Axes) -> list[tuple[float, float, float]]:
    """Middle, bottom and top of the coloured boxes."""
    found = [patch for patch in ax.patches if patch.get_alpha()]
    return [(b.get_x() + b.get_width() / 2, b.get_y(), b.get_y() + b.get_height()) for b in found]


def segments(ax: Axes, index: int) -> Any:
    """Of the whiskers (0) or the medians (1)."""
    return np.array(ax.collections[index].get_segments())


def test_boxes_hold_the_middle_half_over_seeds() -> None:
    ax = scale_by_layer(distributions(), op="head_scale")
    # Seeds lie at 0 and 1: quantiles in the middle of theirs.
    expected = [(layer, 0.75 + layer / 10, 1.25 + layer / 10) for layer in range(6)]
    np.testing.assert_allclose(boxes(ax), expected)
    whiskers = [[[x, 0.55 + x / 10], [x, 1.45 + x / 10]] for x in range(6)]
    np.testing.assert_allclose(segments(ax, 0), whiskers)
    np.testing.assert_allclose(segments(ax, 1)[:, :, 1].mean(axis=1), 1 + np.arange(6) / 10)


def test_points_are_the_seeds_medians() -> None:
    table = distributions()
    (initial, points) = scale_by_layer(table, op="head_scale").lines
    assert set(initial.get_ydata()) == {1}
    own = table[table["op"] == "head_scale"]
    assert sorted(zip(*points.get_data(), strict=True)) == sorted(
        zip(own["layer"], own["median"], strict=True)
    )
    assert len(scale_by_layer(distributions(seeds=1)).lines) == 1


def test_the_labels_say_what_is_drawn() -> None:
    ax = scale_by_layer(distributions())
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Layer", "FFN LN γ")
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    names = {"median", "median of a seed", "middle half", "middle 90 %", "initial value"}
    assert set(texts) == names
    assert to_hex(ax.patches[-1].get_facecolor()).upper() == LOOKS["normformer"].color


def test_panels_are_ops_by_architectures() -> None:
    archs = ("normformer", "normformer-resscale")
    figure = scale_panels(distributions(archs=archs))
    figure.draw_without_rendering()
    grid = np.array(figure.axes).reshape(2, 3)
    titles = [ax.get_title(loc="left") for ax in grid[0]]
    assert titles == ["FFN LN γ", "Post-attention LN γ", "Head scale γ"]
    assert [ax.get_ylabel() for ax in grid[:, 0]] == ["NormFormer", "NormFormer + λ"]
    assert [ax.get_xlabel() for ax in grid[1]] == ["Layer"] * 3
    for column in grid.T:
        assert column[0].get_ylim() == column[1].get_ylim()
    legend = figure.legends[0].get_window_extent()
    assert all(not legend.overlaps(ax.get_window_extent()) for ax in figure.axes)


def test_an_op_that_an_architecture_lacks_has_an_empty_place() -> None:
    archs = ("normformer", "mine")
    table = distributions(archs=archs)
    table = table[(table["arch"] == "normformer") | (table["op"] == "head_scale")]
    figure = scale_panels(table)
    figure.draw_without_rendering()
    assert [bool(boxes(ax)) for ax in figure.axes] == [True, True, True, False, False, True]


@pytest.mark.parametrize(("n_layers", "archs"), [(1, 1), (40, 8)])
def test_one_layer_and_forty_fit(n_layers: int, archs: int) -> None:
    names = tuple(f"an architecture with a long name {n}" for n in range(archs))
    figure = scale_panels(distributions(n_layers, archs=names))
    figure.draw_without_rendering()
    for ax in figure.axes:
        low, high = ax.get_xlim()
        assert low < -0.3
        assert n_layers - 0.7 < high
        assert all(tick == round(tick) for tick in ax.get_xticks())
        label = ax.yaxis.label.get_window_extent()
        assert label.height < 1.3 * ax.get_window_extent().height


def test_layers_without_a_finite_entry_are_gaps() -> None:
    table = distributions()
    table.loc[table["layer"] == 2, ["mean", *QUANTILES]] = math.nan
    assert [round(x) for x, _, _ in boxes(scale_by_layer(table))] == [0, 1, 3, 4, 5]
    with pytest.raises(GradlabError, match="nothing to draw"):
        scale_panels(table.assign(median=math.nan))


def test_what_is_not_there_is_refused() -> None:
    table = distributions(archs=("normformer", "mine"))
    with pytest.raises(GradlabError, match="unknown op 'head_scales': did you mean 'head_scale'"):
        scale_by_layer(table, op="head_scales")
    with pytest.raises(GradlabError, match="unknown architecture 'normfomer'"):
        scale_by_layer(table, arch="normfomer")
    some = table[(table["arch"] == "mine") | (table["op"] == "head_scale")]
    with pytest.raises(GradlabError, match="normformer has no finite ffn_mid_norm"):
        scale_by_layer(some, arch="normformer")


def test_draws_on_given_axes() -> None:
    ax = paper_axes()
    assert scale_by_layer(distributions(), ax=ax) is ax
    figure_of(ax).draw_without_rendering()


def test_the_files_are_the_same_each_time(tmp_path: Any) -> None:
    first, second = (
        save(scale_panels(distributions()), tmp_path / name, ["png", "pdf", "svg"]) for name in "ab"
    )
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]
