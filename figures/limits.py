"""The highest constant learning rate against the ramp's answer."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from gradlab.errors import GradlabError
from gradlab.figures.stability import scale_note, set_value_axis
from gradlab.figures.style import legend_above, line_mark, looks, paper_axes, paper_style


def limit_against_ramp(limits: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """A marker for each architecture and seed; on the dotted line the two answers are equal.

    The bar is from the highest rate survived to the lowest not. A hollow triangle is a lower bound
    and points to where the answer is: up for a seed that survived the highest rate, right for a
    ramp that did not break.

    Args:
        limits: A table of `gradlab.analyses.limits.answers`.
        ax: Where to draw; a new one-column figure if None.

    Raises:
        GradlabError: No seed has both answers.
    """
    known = limits[limits["low"].notna() & limits["ramp"].notna()]
    if known.empty:
        raise GradlabError("no seed has both a limit and a ramp: there is nothing to draw.")
    style = looks(known["arch"])
    if ax is None:
        ax = paper_axes()
    with paper_style():
        values = pd.concat([known[name] for name in ("low", "high", "ramp")]).dropna()
        set_value_axis(ax, values)
        set_value_axis(ax, values, "x")
        for arch, look in style.items():
            rows = known[known["arch"] == arch]
            ax.vlines(rows["ramp"], rows["low"], rows["high"], color=look.color, **_BAR)
            kinds = rows.groupby([rows["high"].isna(), rows["ramp_bound"].astype(bool)])
            for bounds, points in kinds:
                mark: dict[str, Any] = {**_HOLLOW, "marker": _POINTS.get(bounds)}
                if bounds not in _POINTS:
                    mark = {"marker": look.marker, **_PLAIN}
                ax.plot(points["ramp"], points["low"], color=look.color, markersize=4.5, **mark)
        ends = (values.min(), values.max())
        ax.plot(ends, ends, **_ALIKE)
        ax.set_xlabel(f"LR at the ramp's break{scale_note(ax, 'x')}")
        ax.set_ylabel(f"Highest constant LR{scale_note(ax)}")
        handles = [line_mark(look, linestyle="none") for look in style.values()]
        if known["high"].notna().any():
            handles.append(Line2D([], [], color="0.4", label="up to the lowest not", **_BAR))
        handles.append(Line2D([], [], label="both alike", **_ALIKE))
        there = set(zip(known["high"].isna(), known["ramp_bound"].astype(bool), strict=True))
        for marker in [marker for bounds, marker in _POINTS.items() if bounds in there]:
            mark = {**_HOLLOW, "marker": marker, "label": "lower bound"}
            handles.append(Line2D([], [], color="0.4", **mark))
        legend_above(ax, handles)
    return ax


_POINTS: dict[Any, Any] = {(True, False): "^", (False, True): ">", (True, True): (3, 0, -45)}
"""Whether the constant rate is a lower bound, and whether the ramp's → a triangle that way."""

_PLAIN: dict[str, Any] = {
    "linestyle": "none",
    "markeredgecolor": "white",
    "markeredgewidth": 0.3,
}

_BAR: dict[str, Any] = {"alpha": 0.4, "linewidth": 1.5}

_ALIKE: dict[str, Any] = {"color": "0.5", "linewidth": 0.8, "linestyle": ":", "zorder": 1}

_HOLLOW: dict[str, Any] = {"linestyle": "none", "markerfacecolor": "white", "markeredgewidth": 0.8}
