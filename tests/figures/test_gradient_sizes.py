from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from gradlab.errors import GradlabError
from gradlab.figures.gradient_sizes import gradient_size_by_layer
from gradlab.figures.style import figure_of, paper_axes

QUANTILES = {"low": 1e-4, "q05": 1e-3, "q25": 1e-2, "median": 0.03, "q75": 0.1, "q95": 0.3}


def sizes(layers: int = 3, arch: str = "pre-ln", **columns: Any) -> pd.DataFrame:
    rows = [
        {"layer": layer, "arch": arch, **{name: q * 2**-layer for name, q in QUANTILES.items()}}
        for layer in range(layers)
    ]
    table = pd.DataFrame(rows).assign(high=0.9, entries=100, left_out=0, zeros=0)
    return table.assign(**columns)


def bars(ax: Axes) -> list[np.ndarray]:
    """x, bottom and top of the bars of each span."""
    return [
        np.array([[segment[0, 0], *segment[:, 1]] for segment in found.get_segments()])
        for found in ax.collections
        if isinstance(found, LineCollection)
    ]


def medians(ax: Axes) -> Any:
    return next(line for line in ax.lines if line.get_marker() == "_")


def test_the_bars_are_the_quantiles() -> None:
    table = sizes()
    ax = gradient_size_by_layer(table, title="mine")
    for drawn, ends in zip(
        bars(ax), (("low", "high"), ("q05", "q95"), ("q25", "q75")), strict=True
    ):
        np.testing.assert_allclose(drawn, table[["layer", *ends]].to_numpy(float))
    np.testing.assert_allclose(medians(ax).get_ydata(), table["median"])
    assert ax.get_title(loc="left") == "mine"
    assert ax.get_ylabel() == "Mean |g| of a weight (log scale)"


def test_runs_stand_beside_each_other() -> None:
    ax = gradient_size_by_layer(pd.concat([sizes(), sizes(2, "normformer")]))
    assert [len(found) for found in bars(ax)] == [3, 3, 3, 2, 2, 2]
    first, second = bars(ax)[0][0, 0], bars(ax)[3][0, 0]
    assert first < 0 < second
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts[:2] == ["Pre-LN", "NormFormer"]


def test_gradients_of_zero_are_marked_and_nothing_at_all_is_refused() -> None:
    table = sizes(zeros=[0, 5, 0])
    ax = gradient_size_by_layer(table)
    (crosses,) = [line for line in ax.lines if line.get_marker() == "x"]
    assert crosses.get_xdata().tolist() == [1]
    assert "some are 0 throughout" in [text.get_text() for text in ax.get_legend().get_texts()]
    dead = sizes(entries=[10, 0, 10])
    assert bars(gradient_size_by_layer(dead))[0][:, 0].tolist() == [0, 2]
    with pytest.raises(GradlabError, match="nothing to draw"):
        gradient_size_by_layer(sizes(entries=0))


@pytest.mark.parametrize("layers", [1, 4, 12, 48])
def test_any_depth_can_be_drawn_on_given_axes(layers: int) -> None:
    ax = paper_axes()
    assert gradient_size_by_layer(sizes(layers), ax=ax) is ax
    figure_of(ax).draw_without_rendering()
    assert len(bars(ax)[0]) == layers
