import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from drawn import joined
from matplotlib.axes import Axes

from gradlab.errors import GradlabError
from gradlab.figures.lambda_resid import lambda_resid_by_depth
from gradlab.figures.style import DASHES, LOOKS, figure_of, paper_axes

SIZES = {"nano": 6, "micro": 12, "125M": 12, "355M": 24, "1.3B": 40}


def lambdas(
    sizes: tuple[str, ...] = ("nano",), archs: tuple[str, ...] = ("normformer-resscale",),
    seeds: int = 3,
) -> pd.DataFrame:  # fmt: skip
    """λ falls by 0.1 a layer from 1, and each seed's is 0.01 higher than the last's."""
    rows = [
        {
            "size": size,
            "arch": arch,
            "seed": seed,
            "residual": residual,
            "layer": layer,
            "depth": layer / SIZES[size],
            "step": 9,
            "entries": 64,
            "left_out": 0,
            "mean": 1 - layer / 10 + seed / 100 + (residual == "attn_residual"),
        }
        for size in sizes
        for arch in archs
        for seed in range(seeds)
        for residual in ("ffn_residual", "attn_residual")
        for layer in range(SIZES[size])
    ]
    return pd.DataFrame(rows)


def curves(ax: Axes) -> list[Any]:
    """All lines but the one at 1."""
    return [line for line in ax.lines if len(line.get_xdata()) > 2]


def texts(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


@pytest.mark.parametrize(("residual", "above"), [("ffn_residual", 0), ("attn_residual", 1)])
def test_a_line_is_the_mean_over_seeds_against_depth(residual: str, above: float) -> None:
    (line,) = curves(lambda_resid_by_depth(lambdas(), residual=residual))
    np.testing.assert_allclose(line.get_xdata(), np.arange(6) / 6)
    np.testing.assert_allclose(line.get_ydata(), 1.01 - np.arange(6) / 10 + above)
    assert line.get_color() == LOOKS["normformer-resscale"].color


def test_a_band_is_the_range_of_seeds() -> None:
    ax = lambda_resid_by_depth(lambdas())
    (path,) = ax.collections[0].get_paths()
    first = path.vertices[path.vertices[:, 0] == 0, 1]
    assert (first.min(), first.max()) == pytest.approx((1.0, 1.02))
    assert "range of seeds" in texts(ax)
    assert "range of seeds" not in texts(lambda_resid_by_depth(lambdas(seeds=1)))


def test_sizes_differ_in_dashes() -> None:
    ax = lambda_resid_by_depth(lambdas(tuple(SIZES), seeds=1))
    lines = curves(ax)
    assert len(lines) == 5
    assert len({str(line._dash_pattern) for line in lines}) == 5 < len(DASHES)
    assert set(texts(ax)) == {"NormFormer + λ", *SIZES}
    assert texts(lambda_resid_by_depth(lambdas(seeds=1))) == ["NormFormer + λ"]


def test_the_axes_say_what_they_are() -> None:
    ax = lambda_resid_by_depth(lambdas(tuple(SIZES)))
    figure_of(ax).draw_without_rendering()
    assert ax.get_xlabel() == "Depth (layer / layers)"
    assert ax.get_ylabel() == "Mean λ, the learned factor on\nthe FFN residual (1 at first)"
    assert ax.get_xlim()[0] < 0 < 1 < ax.get_xlim()[1]
    assert not ax.yaxis.get_offset_text().get_text()
    assert ax.get_legend().get_window_extent().y0 > ax.get_window_extent().y1


def test_values_all_but_equal_have_whole_labels() -> None:
    table = lambdas()
    ax = lambda_resid_by_depth(table.assign(mean=1 + 1e-5 * table["layer"]))
    figure_of(ax).draw_without_rendering()
    assert not ax.yaxis.get_offset_text().get_text()


@pytest.mark.parametrize("n_layers", [1, 4, 12, 48])
@pytest.mark.parametrize("seeds", [1, 3])
def test_any_depth_can_be_drawn(n_layers: int, seeds: int) -> None:
    first = lambdas(seeds=seeds).query("layer == 0")
    layers = [first.assign(layer=n, depth=n / n_layers, mean=1 - n / 99) for n in range(n_layers)]
    table = pd.concat(layers)
    ax = lambda_resid_by_depth(table)
    figure_of(ax).draw_without_rendering()
    (line,) = joined(ax, LOOKS["normformer-resscale"].color)
    assert len(line.get_xdata()) == n_layers
    assert line.get_marker() == LOOKS["normformer-resscale"].marker


def test_a_layer_without_a_finite_mean_is_a_gap() -> None:
    table = lambdas()
    table.loc[table["layer"] == 2, "mean"] = math.nan
    drawn = joined(lambda_resid_by_depth(table), LOOKS["normformer-resscale"].color)
    assert [len(line.get_xdata()) for line in drawn] == [2, 3]


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(GradlabError, match=r"unknown residual 'ffn'\. Known: ffn_residual"):
        lambda_resid_by_depth(lambdas(), residual="ffn")
    with pytest.raises(GradlabError, match="nothing to draw"):
        lambda_resid_by_depth(lambdas().assign(mean=math.nan))


def test_draws_on_given_axes() -> None:
    ax = paper_axes()
    assert lambda_resid_by_depth(lambdas(), ax=ax) is ax
