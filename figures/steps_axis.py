"""What figures over steps share: lines thinned for display, what happened on the way, the axis."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

MOST_POINTS = 2000
"""Points of a line of a figure's whole width, from which on it is thinned."""

_FEW_POINTS = 20
"""Points of a line up to which each is marked."""

_MOST_MARKS = 600
"""Marks side by side on an axis: nobody sees more."""

BREAK: dict[str, Any] = {"color": "black", "linewidth": 1.0, "linestyle": (0, (2, 1.5))}

LOST = "#E4501E"
"""The colour of what overflowed or was not finite, as in the figure of headroom."""


def thinned(values: ArrayLike, most: int = MOST_POINTS) -> NDArray[np.int64]:
    """Which points of a line show all of it at `most` points, or a few more.

    Of each stretch of equally many points the least and the largest stay, and the first that is
    missing; of the whole line the first and the last. A line of no more points stays whole.

    Returns:
        The places of the points that stay, in their order.
    """
    line = np.asarray(values, np.float64)
    if len(line) <= most:
        return np.arange(len(line))
    missing = ~np.isfinite(line)
    starts = np.unique(np.linspace(0, len(line), max(most // 2, 1), endpoint=False).astype(int))
    kept = {0, len(line) - 1}
    for start, end in zip(starts, [*starts[1:], len(line)], strict=True):
        stretch = line[start:end]
        gap = missing[start:end]
        if gap.any():
            kept.add(start + int(gap.argmax()))
        if not gap.all():
            kept.add(start + int(np.where(gap, np.inf, stretch).argmin()))
            kept.add(start + int(np.where(gap, -np.inf, stretch).argmax()))
    return np.array(sorted(kept))


def draw_line(
    ax: Axes, steps: ArrayLike, values: ArrayLike, *, most: int = MOST_POINTS, **line: Any
) -> None:
    """A line over steps, thinned, with gaps where it is not finite.

    What stands alone is a dot, and each point of a line of few, which says where they are.
    """
    x, y = np.asarray(steps, np.float64), np.asarray(values, np.float64)
    y = np.where(np.isfinite(y), y, np.nan)
    kept = thinned(y, most)
    x, y = x[kept], y[kept]
    known = np.isfinite(y)
    beside = np.append(False, known[:-1]) | np.append(known[1:], False)
    dotted = np.flatnonzero(known & (~beside | (known.sum() <= _FEW_POINTS))).tolist()
    options: dict[str, Any] = {"linewidth": 0.8, "zorder": 3, "solid_joinstyle": "round"}
    dots: dict[str, Any] = {"marker": ".", "markersize": 4.5, "markevery": dotted} if dotted else {}
    ax.plot(x, y, **{**options, **dots, **line})


def marked(steps: Iterable[int], limits: tuple[float, float]) -> list[int]:
    """The steps that are seen apart on an axis, the first of each few that are not."""
    width = max(limits[1] - limits[0], 1) / _MOST_MARKS
    seen: dict[int, int] = {}
    for step in steps:
        seen.setdefault(int((step - limits[0]) / width), int(step))
    return list(seen.values())


def step_axis(
    ax: Axes, steps: "pd.Series[int]", breaks: Iterable[int] = (), *, ticks: int = 6
) -> None:
    """Steps and breaks on x, whole, with room beside them and ticks at whole ones."""
    every = [int(steps.min()), int(steps.max()), *breaks]
    first, last = min(every), max(every)
    margin = max(0.02 * (last - first), 0.5)
    ax.set_xlim(first - margin, last + margin)
    ax.xaxis.set_major_locator(MaxNLocator(ticks, integer=True, min_n_ticks=1))


def break_mark(label: str = "break") -> Line2D:
    """What the break is drawn with, for a legend."""
    return Line2D([], [], label=label, **BREAK)
