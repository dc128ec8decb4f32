"""Lines over steps in small panels: a panel an operation, a line a layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from gradlab.errors import GradlabError
from gradlab.figures.labels import plain_label, rate_label
from gradlab.figures.stability import LOG_FROM, set_value_axis
from gradlab.figures.steps_axis import BREAK, LOST, break_mark, draw_line, marked, step_axis
from gradlab.figures.style import PAPER, TWO_COLUMNS, legend_over, panel_columns, paper_style

MOST_PANELS = 64
"""Panels from which on those with the largest values are drawn alone."""

_POINTS = 15_000
"""Points of a figure, from which on its lines are thinned."""

_LINES: Colormap = ListedColormap(mpl.colormaps["viridis"](np.linspace(0, 0.88, 256)), "lines")
"""Dark for the first layer, light for the last, which white paper still shows."""

_OUTSIDE = "0.25"
"""The colour of what is in no layer."""


@dataclass(frozen=True)
class Lines:
    """What is drawn.

    Attributes:
        rows: Columns panel, line (a number; missing for what has none), step, value (NaN is a gap),
            lost (whether something was not finite there), and dashed (optional).
        value: The label of y, with its unit.
        line: What a line is: `Layer`.
        outside: What a line without a number is.
        dashed: What a dashed line is.
        reference: A value that is marked, and what it is.
        limits: Of y, on a scale that is not logarithmic; as the values need if None.
    """

    rows: pd.DataFrame
    value: str
    line: str
    outside: str
    dashed: str = ""
    reference: tuple[float, str] | None = None
    limits: tuple[float, float] | None = None


def step_panels(lines: Lines, *, title: str, break_step: int | None = None) -> Figure:
    """A panel for each name in the column panel, all on one scale.

    Ticks along a panel's top are steps at which something in it was not finite: there its lines
    have gaps. Lines of few points have markers. A panel that has no finite value says so. The scale
    is logarithmic where the largest value is more than four times the least; a 0, for which it has
    no place, is a gap with a tick at the bottom.

    Args:
        lines: What is drawn.
        title: Above all panels.
        break_step: Marked by a vertical line; the axis goes up to it.

    Raises:
        GradlabError: No value is finite.
    """
    rows = lines.rows
    known = rows["value"][np.isfinite(rows["value"].astype("float64"))]
    if known.empty:
        raise GradlabError("no value is finite: there is nothing to draw.")
    panels, left_out = _panels(rows)
    if left_out:
        title = f"{title} (the {len(panels)} largest of {len(panels) + left_out} panels)"
    columns = _columns(len(panels))
    count = -(-len(panels) // columns)
    height = 1.7 if count == 1 else 1.3 if count == 2 else 1.0 if columns <= 5 else 0.75
    numbers = rows["line"].dropna()
    scale = Normalize(float(numbers.min()), float(numbers.max())) if len(numbers) else None
    with paper_style():
        figure, grid = plt.subplots(
            count,
            columns,
            figsize=(TWO_COLUMNS, 0.75 + (height + 0.18) * count),
            sharex=True,
            sharey=True,
            squeeze=False,
            layout="constrained",
        )
        axes = list(grid.flat)
        breaks = [] if break_step is None else [break_step]
        step_axis(axes[0], rows["step"], breaks, ticks=3 if columns > 2 else 5)
        if lines.limits is None:
            _set_values(axes[0], known)
        else:
            axes[0].set_ylim(*lines.limits)
        most = max(_POINTS // max(rows[["panel", "line"]].drop_duplicates().shape[0], 1), 40)
        for ax, name in zip(axes, panels, strict=False):
            _draw(ax, rows[rows["panel"] == name], scale, most)
            ax.set_title(plain_label(name, 24), loc="left", fontsize=7, pad=3)
            if break_step is not None:
                ax.axvline(break_step, **BREAK)
            if lines.reference is not None and ax.get_ylim()[1] >= lines.reference[0]:
                ax.axhline(lines.reference[0], **_REFERENCE)
        for index, ax in enumerate(axes):
            ax.set_visible(index < len(panels))
            is_lowest = index + columns >= len(panels)
            ax.tick_params(labelbottom=is_lowest, labelsize=6)
        figure.supxlabel("Step", fontsize=PAPER["axes.labelsize"])
        note = "\n(log scale)" if axes[0].get_yscale() == "log" else ""
        figure.supylabel(f"{lines.value}{note}", fontsize=PAPER["axes.labelsize"])
        figure.suptitle(title, fontsize=PAPER["axes.titlesize"], x=0.01, ha="left")
        if scale is not None and scale.vmax != scale.vmin:
            _bar(figure, axes, scale, lines.line, count)
        shows_reference = (
            lines.reference is not None and axes[0].get_ylim()[1] >= lines.reference[0]
        )
        is_log = axes[0].get_yscale() == "log"
        if handles := _handles(lines, break_step, shows_reference, is_log=is_log):
            legend_over(figure, handles, loc="outside lower left")
    return figure


def _panels(rows: pd.DataFrame) -> tuple[list[str], int]:
    """The panels in the order of the table, and how many are left out."""
    names = [str(name) for name in pd.unique(rows["panel"])]
    if len(names) <= MOST_PANELS:
        return names, 0
    largest = rows.groupby("panel")["value"].max().sort_values(ascending=False)
    kept = set(largest.index[:MOST_PANELS])
    return [name for name in names if name in kept], len(names) - MOST_PANELS


def _columns(panels: int) -> int:
    if panels > 20:
        return 6 if panels <= 36 else 8
    return 3 if panels in (6, 9) else panel_columns(panels, 5)


def _set_values(ax: Axes, known: "pd.Series[float]") -> None:
    """The scale of values that all panels share."""
    low, high = float(known.min()), float(known.max())
    positive = known[known > 0]
    if low >= 0 and len(positive) and high > LOG_FROM * float(positive.min()):
        set_value_axis(ax, positive)
    else:
        room = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
        ax.set_ylim(low - room, high + 1.5 * room)
        ax.yaxis.set_major_locator(MaxNLocator(4))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda number, _: rate_label(number)))


def _draw(ax: Axes, rows: pd.DataFrame, scale: Normalize | None, most: int) -> None:
    """One panel."""
    numbers = rows["line"].astype("float64")
    is_log = ax.get_yscale() == "log"
    zeros = _zeros(rows) if is_log else rows.iloc[:0]
    rows = rows.assign(value=rows["value"].mask(rows.index.isin(zeros.index)))
    for (number, is_dashed), line in rows.groupby([numbers, _dashed(rows)], dropna=False):
        color = _color(number, scale)
        style: dict[str, Any] = {"linestyle": (0, (3, 1.2))} if is_dashed else {}
        draw_line(ax, line["step"], line["value"], most=most, color=color, **style)
    lost = marked(sorted(set(rows.loc[rows["lost"], "step"])), ax.get_xlim())
    if lost:
        top = ax.get_xaxis_transform()
        ax.plot(lost, [0.97] * len(lost), transform=top, **_LOST)
    values = rows["value"].astype("float64")
    if len(zeros) and len(zeros) < len(rows):
        steps = marked(sorted(set(zeros["step"])), ax.get_xlim())
        ax.plot(steps, [0] * len(steps), transform=ax.get_xaxis_transform(), **_ZERO)
    elif len(zeros):
        ax.text(0.5, 0.5, "0 throughout", **_WORDS, transform=ax.transAxes)
    elif not np.isfinite(values).any():
        ax.text(
            0.5,
            0.5,
            "never finite" if rows["lost"].all() else "no value",
            **_WORDS,
            transform=ax.transAxes,
        )


def _zeros(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["value"] == 0]


def _color(number: Any, scale: Normalize | None) -> Any:
    return _OUTSIDE if scale is None or np.isnan(number) else _LINES(scale(float(number)))


def _dashed(rows: pd.DataFrame) -> "pd.Series[bool]":
    if "dashed" in rows:
        return rows["dashed"]
    return pd.Series(False, index=rows.index, name="dashed")


_LOST: dict[str, Any] = {
    "linestyle": "none",
    "marker": "|",
    "markersize": 4,
    "markeredgewidth": 0.8,
}
_LOST |= {"color": LOST, "clip_on": False, "zorder": 4}

_TICK_UP = 2
"""matplotlib's TICKUP, which its stubs do not know."""

_ZERO: dict[str, Any] = {"linestyle": "none", "marker": _TICK_UP, "markersize": 3, "zorder": 4}
_ZERO |= {"color": "0.5", "markeredgewidth": 0.8}

_REFERENCE: dict[str, Any] = {"color": LOST, "linewidth": 0.8, "zorder": 2}

_WORDS: dict[str, Any] = {"ha": "center", "va": "center", "color": "0.4", "fontsize": 6.5}


def _bar(figure: Figure, axes: Sequence[Axes], scale: Normalize, label: str, rows: int) -> None:
    """The scale of the lines' colours."""
    bar = figure.colorbar(ScalarMappable(scale, _LINES), ax=list(axes), pad=0.02, aspect=18 * rows)
    bar.outline.set_visible(False)
    bar.ax.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    bar.ax.tick_params(length=0, labelsize=6)
    bar.set_label(label, fontsize=7)


def _handles(
    lines: Lines, break_step: int | None, shows_reference: bool, *, is_log: bool
) -> list[Line2D]:
    rows = lines.rows
    handles = []
    if rows["line"].isna().any():
        handles.append(Line2D([], [], color=_OUTSIDE, linewidth=0.8, label=lines.outside))
    if _dashed(rows).any():
        dashes: Any = (0, (3, 1.2))
        handles.append(
            Line2D([], [], color="0.4", linestyle=dashes, linewidth=0.8, label=lines.dashed)
        )
    if shows_reference and lines.reference is not None:
        handles.append(Line2D([], [], label=lines.reference[1], **_REFERENCE))
    if rows["lost"].any():
        handles.append(Line2D([], [], label="not finite", **_LOST))
    if is_log and len(_zeros(rows)):
        handles.append(Line2D([], [], label="0", **_ZERO))
    if break_step is not None:
        handles.append(break_mark(f"break, step {break_step}"))
    return handles
