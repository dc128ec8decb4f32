"""Figure 3 of the NormFormer paper: the size of each layer's gradients, by architecture."""

from collections.abc import Mapping

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from gradlab.errors import GradlabError, unknown
from gradlab.figures.stability import set_value_axis
from gradlab.figures.style import (
    TWO_COLUMNS,
    Look,
    asides,
    draw_range,
    legend_above,
    legend_over,
    looks,
    paper_axes,
    paper_style,
    range_of_seeds,
)

_MOST_MARKERS = 12
"""Markers on a line; of deeper models, some layers are marked."""

_WEIGHTS = {"fc2": "second FFN weight", "fc1": "first FFN weight"}


def gradient_by_layer(
    gradients: pd.DataFrame, *, op: str = "fc2", window: str = "early", ax: Axes | None = None
) -> Axes:
    """Mean L1 norm of the gradient of an op's weight against the layer, a line an architecture.

    The line is the mean over seeds, the band their range. Layers without a finite gradient are
    gaps. Lines are set aside from each other by up to a tenth of a layer, so that equal ones are
    both seen. The axis is logarithmic where the largest gradient is more than four times the least.

    Args:
        gradients: A table of `gradlab.analyses.gradient_study.study_gradients`.
        op: The op.
        window: `early` or `late`.
        ax: Where to draw; a new one-column figure if None.

    Raises:
        GradlabError: The table has no such op or window, or no finite gradient in it.
    """
    rows = _rows(gradients, op)
    if window not in set(rows["window"]):
        raise GradlabError(unknown("window", window, pd.unique(rows["window"])))
    here = rows[rows["window"] == window]
    style = looks(here["arch"])
    if ax is None:
        ax = paper_axes()
    with paper_style():
        _draw(ax, here, style, here)
        ax.set_xlabel("Layer")
        ax.set_ylabel(_label(op))
        legend_above(ax, _handles(style, here))
    return ax


def gradient_panels(gradients: pd.DataFrame, *, op: str = "fc2") -> Figure:
    """`gradient_by_layer` in every window of the table, side by side on one scale.

    Raises:
        GradlabError: As `gradient_by_layer`.
    """
    rows = _rows(gradients, op)
    style = looks(rows["arch"])
    windows = rows.groupby("window", sort=False)
    with paper_style():
        figure, grid = plt.subplots(
            1,
            len(windows),
            figsize=(TWO_COLUMNS, 2.5),
            sharex=True,
            sharey=True,
            squeeze=False,
            layout="constrained",
        )
        for ax, (name, here) in zip(grid.flat, windows, strict=True):
            _draw(ax, here, style, rows)
            first, last = here["first"].iloc[0], here["last"].iloc[0]
            ax.set_title(f"{str(name).capitalize()}: steps {first}–{last}", loc="left")
            ax.set_xlabel("Layer")
        grid[0, 0].set_ylabel(_label(op))
        legend_over(figure, _handles(style, rows))
    return figure


def _rows(gradients: pd.DataFrame, op: str) -> pd.DataFrame:
    """The rows of an op that have a gradient."""
    if op not in set(gradients["op"]):
        raise GradlabError(unknown("op", op, pd.unique(gradients["op"])))
    rows = gradients[(gradients["op"] == op) & gradients["grad_l1"].notna()]
    if rows.empty:
        raise GradlabError(f"no gradient of {op} was finite: there is nothing to draw.")
    return rows


def _label(op: str) -> str:
    return f"Mean L1 norm of the gradient\nof the {_WEIGHTS.get(op, f'{op} weight')}"


def _draw(
    ax: Axes, rows: pd.DataFrame, style: Mapping[str, Look], everything: pd.DataFrame
) -> None:
    """One window's lines, on axes with room for all windows."""
    n_layers = int(everything["n_layers"].max())
    aside = asides(list(style), 0.1, most=0.4)  # in layers
    for place, (arch, look) in enumerate(style.items()):
        seeds = rows[rows["arch"] == arch].groupby("layer")["grad_l1"]
        if not len(seeds):
            continue
        low, mean, high = (
            values.reindex(range(n_layers)) for values in (seeds.min(), seeds.mean(), seeds.max())
        )
        x = mean.index + aside[arch]
        draw_range(ax, x, low, high, look.color)
        ax.plot(
            x,
            mean,
            color=look.color,
            marker=look.marker,
            linewidth=1.0,
            markersize=3.5,
            markevery=-(-n_layers // _MOST_MARKERS),
            markeredgecolor="white",
            markeredgewidth=0.4,
            zorder=3 + place / 100,
        )
    ax.set_xlim(-0.5, n_layers - 0.5)
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    set_value_axis(ax, everything["grad_l1"])


def _handles(style: Mapping[str, Look], rows: pd.DataFrame) -> list[Line2D]:
    handles = [
        Line2D(
            [],
            [],
            color=look.color,
            marker=look.marker,
            linewidth=1.0,
            markeredgecolor="white",
            markeredgewidth=0.4,
            label=look.label,
        )
        for look in style.values()
    ]
    if rows["seed"].nunique() > 1:
        handles.append(range_of_seeds())
    return handles
