"""Figure 2 of the NormFormer paper: validation perplexity against training compute."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from gradlab.analyses.compute import COMPUTE, mean_curves, reach
from gradlab.errors import GradlabError, unknown
from gradlab.figures.labels import plain_label
from gradlab.figures.stability import set_value_axis
from gradlab.figures.style import (
    DASHES,
    draw_range,
    legend_above,
    looks,
    paper_axes,
    paper_style,
    range_of_seeds,
)

_MOST_MARKERS = 8
"""Markers on a line, which keep the lines apart in grey."""

_UNITS = {
    "flops": ((1e18, "EFLOPs"), (1e15, "PFLOPs"), (1e12, "TFLOPs"), (1e9, "GFLOPs"), (1, "FLOPs")),
    "seconds": ((2 * 86400, "days"), (2 * 3600, "hours"), (120, "minutes"), (1, "seconds")),
    "tokens": ((1e9, "billion"), (1e6, "million"), (1e3, "thousand"), (1, "")),
}
"""From how much on a unit is used; a unit of time is its name's own."""

_SECONDS = {"days": 86400, "hours": 3600, "minutes": 60, "seconds": 1}

_BEST: dict[str, Any] = {"linewidth": 0.5, "alpha": 0.6}

_STAR: dict[str, Any] = {
    "linestyle": "none",
    "marker": "*",
    "markersize": 9,
    "markeredgecolor": "white",
    "markeredgewidth": 0.6,
}


def perplexity_by_compute(
    curves: pd.DataFrame,
    *,
    baseline: str | None = None,
    compute: str = "flops",
    ax: Axes | None = None,
) -> Axes:
    """Validation perplexity against training compute, a line an architecture, a dash a size.

    The line is the geometric mean over seeds, where all of them have a validation that is finite;
    the band is the range of those that do. A star stands where an
    architecture's line is first as low as the lowest point of the baseline's of its size, which
    the thin line marks. The axis is logarithmic where
    the highest perplexity is more than four times the lowest.

    Args:
        curves: A table of `gradlab.analyses.compute.perplexity_curves`; tables of several sizes
            may be put together.
        baseline: The architecture to compare with; the table's first if None.
        compute: `flops`, `seconds` or `tokens`.
        ax: Where to draw; a new one-column figure if None.

    Raises:
        GradlabError: There is no such compute or baseline, or no perplexity is finite.
    """
    if compute not in COMPUTE:
        raise GradlabError(unknown("compute", compute, COMPUTE))
    means = mean_curves(curves)
    for name in ("perplexity", "low", "high"):
        means[name] = means[name].where(np.isfinite(means[name]))
    every_seed = means.groupby(["size", "arch"])["runs"].transform("max")
    means["perplexity"] = means["perplexity"].where(means["runs"] == every_seed)
    if means["perplexity"].isna().all():
        raise GradlabError("no validation loss is finite: there is nothing to draw.")
    style = looks(means["arch"])
    baseline = next(iter(style)) if baseline is None else baseline
    if baseline not in style:
        raise GradlabError(unknown("baseline", baseline, style))
    dashes = _dashes(pd.unique(means["size"]))
    unit, label = _unit(compute, float(means[compute].max()))
    if ax is None:
        ax = paper_axes()
    stars = []
    with paper_style():
        for size, of_size in means.groupby("size", sort=False):
            theirs = of_size[of_size["arch"] == baseline]
            if len(theirs) and theirs["perplexity"].notna().any():
                best = theirs["perplexity"].min()
                ax.axhline(best, color=style[baseline].color, zorder=1, **_BEST)
            for arch, line in of_size.groupby("arch", sort=False):
                look, x = style[str(arch)], line[compute] / unit
                draw_range(ax, x, line["low"], line["high"], look.color)
                ax.plot(
                    x,
                    line["perplexity"],
                    color=look.color,
                    linestyle=dashes[str(size)],
                    linewidth=1.0,
                    marker=look.marker,
                    markersize=3.5,
                    markevery=-(-len(line) // _MOST_MARKERS),
                    markeredgecolor="white",
                    markeredgewidth=0.4,
                    zorder=3,
                )
                found = reach(line, theirs, compute=compute)
                if arch != baseline and not np.isnan(found["at"]):
                    stars.append((found["at"] / unit, found["reached"], look.color))
        for x_star, y_star, color in stars:
            ax.plot([x_star], [y_star], color=color, zorder=5, **_STAR)
        ax.set_xlim(left=0)
        set_value_axis(ax, means["perplexity"].dropna())
        if ax.get_yscale() == "log":
            ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 5.0, 7.0)))
        ax.set_xlabel(label)
        ax.set_ylabel("Validation perplexity")
        legend_above(ax, _handles(curves, style, list(dashes), baseline, stars=bool(stars)))
    return ax


def _unit(compute: str, most: float) -> tuple[float, str]:
    """What to divide by, and the axis's label."""
    size, name = next((u for u in _UNITS[compute] if most >= u[0]), _UNITS[compute][-1])
    if compute == "seconds":
        return _SECONDS[name], f"Training time ({name})"
    if compute == "tokens":
        return size, f"Training tokens ({name})" if name else "Training tokens"
    return size, f"Training compute ({name})"


def _dashes(sizes: Iterable[str]) -> dict[str, Any]:
    return {str(size): DASHES[index % len(DASHES)] for index, size in enumerate(sizes)}


def _handles(
    curves: pd.DataFrame, style: dict[str, Any], sizes: list[str], baseline: str, *, stars: bool
) -> list[Line2D]:
    handles = [
        Line2D(
            [],
            [],
            color=look.color,
            linewidth=1.0,
            label=look.label,
            marker=look.marker,
            markersize=3.5,
        )
        for look in style.values()
    ]
    if len(sizes) > 1:
        handles += [
            Line2D([], [], color="0.4", linestyle=dashes, label=plain_label(size))
            for size, dashes in _dashes(sizes).items()
        ]
    if curves.groupby(["size", "arch"])["seed"].nunique().max() > 1:
        handles.append(range_of_seeds())
    look = style[baseline]
    handles.append(Line2D([], [], color=look.color, **_BEST, label=f"{look.label}'s best"))
    if stars:
        handles.append(Line2D([], [], color="0.4", label="first as low", **_STAR))
    return handles
