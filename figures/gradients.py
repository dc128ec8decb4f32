"""Figure 3 of the NormFormer paper: the size of each layer's gradients, by architecture."""

from collections.abc import Mapping

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gradlab.errors import GradlabError, unknown
from gradlab.figures.labels import plain_label
from gradlab.figures.stability import scale_note, set_value_axis
from gradlab.figures.style import (
    TWO_COLUMNS,
    Look,
    asides,
    draw_lines,
    draw_range,
    layer_axis,
    legend_above,
    legend_over,
    line_mark,
    looks,
    paper_axes,
    paper_style,
    range_of_seeds,
)

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
        ax.set_ylabel(_label(op, ax))
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
        grid[0, 0].set_ylabel(_label(op, grid[0, 0]))
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


def _label(op: str, ax: Axes) -> str:
    weight = _WEIGHTS.get(op, f"{plain_label(op)} weight")
    return f"Mean L1 norm of the gradient,\n{weight}{scale_note(ax)}"


def _draw(
    ax: Axes, rows: pd.DataFrame, style: Mapping[str, Look], everything: pd.DataFrame
) -> None:
    """One window's lines, on axes with room for all windows."""
    n_layers = int(everything["n_layers"].max())
    aside = asides(list(style), 0.1, most=0.4)  # in layers
    seeds = rows.groupby(["arch", "layer"])["grad_l1"]
    known = seeds.agg(["min", "mean", "max"])
    every = pd.MultiIndex.from_product([style, range(n_layers)], names=["arch", "layer"])
    lines = known.reindex(every).reset_index()
    lines["layer"] += lines["arch"].map(aside)
    for arch, line in lines.groupby("arch", sort=False):
        draw_range(ax, line["layer"], line["min"], line["max"], style[str(arch)].color)
    draw_lines(ax, lines, "layer", "mean", style)
    layer_axis(ax, n_layers)
    set_value_axis(ax, everything["grad_l1"])
    ax.set(xlabel="", ylabel="")


def _handles(style: Mapping[str, Look], rows: pd.DataFrame) -> list[Line2D]:
    handles = [line_mark(look) for look in style.values()]
    if rows["seed"].nunique() > 1:
        handles.append(range_of_seeds())
    return handles
