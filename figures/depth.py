"""The states of a model's layers against depth."""

from typing import Any

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gradlab.errors import GradlabError
from gradlab.figures.stability import scale_note, set_value_axis
from gradlab.figures.style import (
    PAPER,
    TWO_COLUMNS,
    draw_lines,
    layer_axis,
    legend_over,
    line_mark,
    looks,
    paper_style,
)

_PANELS = {
    "variance": ("Variance", "of what the layer gives"),
    "cosine": ("Cosine between tokens", "1: no token differs from another"),
    "cka": ("CKA with its input", "1: the layer only rotates and scales"),
    "first_branch": ("Branch / skip, first sum", "‖what a branch adds‖ / ‖what skips it‖"),
    "last_branch": ("Branch / skip, last sum", "‖what a branch adds‖ / ‖what skips it‖"),
    "drift": ("Median drift of its input", "how far its mean moved, in its spread"),
}
"""Column → its name, and what it means: each a line of a panel's width."""

_SHARES = ("cosine", "cka")
"""Columns that are at most 1, on a scale that is not logarithmic."""

_START: dict[str, Any] = {"linestyle": (0, (3, 1.2)), "linewidth": 0.9}

_THEORY: dict[str, Any] = {"color": "0.5", "alpha": 0.2}


def states_against_depth(states: pd.DataFrame, *, title: str = "") -> Figure:
    """A panel for each quantity, a line for each run: solid at its last step, dashed at its first.

    The band is what theory has for the variance in a Pre-LN at Xavier initial values, of the first
    run.

    Args:
        states: Tables of `gradlab.analyses.depth.states_by_depth` with a column arch, one below the
            other.
        title: Above all panels.

    Raises:
        GradlabError: No value is finite.
    """
    known = [name for name in _PANELS if states[name].notna().any()]
    if not known:
        raise GradlabError("no hidden state is finite: there is nothing to draw.")
    style = looks(states["arch"])
    steps = states.groupby("arch")["step"]
    states = states.assign(first=steps.transform("min"), last=steps.transform("max"))
    with paper_style():
        figure, grid = plt.subplots(
            *(2, 3), figsize=(TWO_COLUMNS, 3.75), sharex=True, squeeze=False, layout="constrained"
        )
        for ax, (name, (label, meaning)) in zip(grid.flat, _PANELS.items(), strict=True):
            if name not in known:
                _empty(ax)
            elif name not in _SHARES:
                set_value_axis(ax, states[name].dropna())
            rows = states[states[name].notna()]
            start = rows[(rows["step"] == rows["first"]) & (rows["first"] < rows["last"])]
            if name != "drift":  # which is over all steps
                _draw_start(ax, start, name, style)
            if len(end := rows[rows["step"] == rows["last"]]):
                draw_lines(ax, end, "layer", name, style)
            if name == "variance":
                band = states[states["arch"] == states["arch"].iloc[0]].drop_duplicates("layer")
                limits = ax.get_ylim()
                ax.fill_between(band["layer"], band["low"], band["high"], linewidth=0, **_THEORY)
                ax.set_ylim(limits)
            layer_axis(ax, int(states["layer"].max()) + 1)
            ax.set_title(f"{label}{scale_note(ax)}\n{meaning}", loc="left", fontsize=6.5, pad=3)
            ax.set_ylabel("")
            ax.set_xlabel("Layer" if ax in grid[-1] else "")
        if title:
            figure.suptitle(title, fontsize=PAPER["axes.titlesize"], x=0.01, ha="left")
        handles = [line_mark(look) for look in style.values()] if len(style) > 1 else []
        if (states["first"] < states["last"]).any():
            handles.append(Line2D([], [], label=_at(states["first"]), color="0.4", **_START))
            handles.append(Line2D([], [], label=_at(states["last"]), color="0.4"))
        theory = Line2D([], [], label="Pre-LN at Xavier, theory", linewidth=5, **_THEORY)
        theory.set_solid_capstyle("butt")
        handles.append(theory)
        legend_over(figure, handles, loc="outside lower left")
    return figure


def _draw_start(ax: Axes, rows: pd.DataFrame, name: str, style: Any) -> None:
    for arch, line in rows.groupby("arch", sort=False):
        ax.plot(line["layer"], line[name], color=style[str(arch)].color, **_START)


def _at(steps: "pd.Series[int]") -> str:
    """Which step a line is of, or which steps those of several runs are."""
    first, last = int(steps.min()), int(steps.max())
    return f"step {first}" if first == last else f"steps {first} to {last}"


def _empty(ax: Axes) -> None:
    words: dict[str, Any] = {"ha": "center", "va": "center", "color": "0.4", "fontsize": 6.5}
    ax.text(0.5, 0.5, "not seen", transform=ax.transAxes, **words)
