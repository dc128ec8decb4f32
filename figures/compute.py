"""Figure 2 of the NormFormer paper: validation perplexity against training compute."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from gradlab.analyses.compute import COMPUTE, mean_curves, reach
from gradlab.errors import GradlabError, unknown
from gradlab.figures.stability import scale_note, set_value_axis
from gradlab.figures.style import (
    DASHES,
    TWO_COLUMNS,
    Look,
    draw_lines,
    draw_range,
    legend_above,
    legend_over,
    line_mark,
    looks,
    paper_axes,
    paper_style,
    range_of_seeds,
    size_mark,
)

_UNITS = {
    "flops": ((1e18, "10¹⁸ "), (1e15, "10¹⁵ "), (1e12, "10¹² "), (1e9, "10⁹ "), (1, "")),
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
    curve = _Curves.of(curves, baseline, compute)
    if ax is None:
        ax = paper_axes()
    with paper_style():
        _draw(ax, curve)
        _set_axis(ax, curve.means["perplexity"].dropna())
        ax.set_ylabel(f"{_label(curves)}{scale_note(ax)}")
        legend_above(ax, _handles(curves, curve))
    return ax


def _label(curves: pd.DataFrame) -> str:
    masked = "objective" in curves and curves["objective"].eq("masked").any()
    return f"Validation perplexity{' of masked tokens' if masked else ''}"


def perplexity_panels(
    curves: pd.DataFrame, *, baseline: str | None = None, compute: str = "flops"
) -> Figure:
    """`perplexity_by_compute`, and beside it the last third of the compute at a scale of its own.

    The first validations are so much higher than the last that lines which end a few per cent
    apart lie on each other.

    Raises:
        GradlabError: As `perplexity_by_compute`.
    """
    curve = _Curves.of(curves, baseline, compute)
    last = curve.means["x"].max()
    first = last * 2 / 3
    late = curve.means[(curve.means["x"] >= first) & curve.means["perplexity"].notna()]
    with paper_style():
        figure, axes = plt.subplots(
            1, 2, figsize=(TWO_COLUMNS, 2.5), squeeze=False, layout="constrained"
        )
        whole, end = axes.flat
        _draw(whole, curve)
        _set_axis(whole, curve.means["perplexity"].dropna())
        whole.set_ylabel(f"{_label(curves)}{scale_note(whole)}")
        if late.empty:
            end.set_visible(False)
        else:
            _draw(end, curve)
            edge = 0.04 * (last - first)
            end.set_xlim(first - edge, last + edge)
            low, high = late["low"].min(), late["high"].max()
            margin = 0.08 * (high - low) or 0.01 * high
            end.set_ylim(low - margin, high + margin)
            end.set_title("The last third, enlarged", loc="left")
        legend_over(figure, _handles(curves, curve))
    return figure


@dataclass(frozen=True)
class _Curves:
    """What a panel draws.

    Attributes:
        means: `mean_curves`, with a mean only where every seed has one, and x in the axis's unit.
        style: The looks of the architectures.
        dashes: Those of each size.
        baseline: The architecture to compare with.
        label: Of the axis of compute.
    """

    means: pd.DataFrame
    style: Mapping[str, Look]
    dashes: Mapping[str, Any]
    baseline: str
    label: str

    @classmethod
    def of(cls, curves: pd.DataFrame, baseline: str | None, compute: str) -> "_Curves":
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
        unit, label = _unit(compute, float(means[compute].max()))
        sizes = pd.unique(means["size"])
        dashes = {str(size): DASHES[place % len(DASHES)] for place, size in enumerate(sizes)}
        return cls(means.assign(x=means[compute] / unit), style, dashes, baseline, label)

    def stars(self) -> list[tuple[float, float, str]]:
        """Where each line is first as low as the baseline's lowest point, and its colour."""
        found = []
        for _, of_size in self.means.assign(flops=self.means["x"]).groupby("size", sort=False):
            theirs = of_size[of_size["arch"] == self.baseline]
            for arch, line in of_size.groupby("arch", sort=False):
                star = reach(line, theirs)
                if arch != self.baseline and not np.isnan(star["at"]):
                    found.append((star["at"], star["reached"], self.style[str(arch)].color))
        return found


def _draw(ax: Axes, curves: _Curves) -> None:
    style = curves.style
    for _, of_size in curves.means.groupby("size", sort=False):
        theirs = of_size[of_size["arch"] == curves.baseline]
        if theirs["perplexity"].notna().any():
            best = theirs["perplexity"].min()
            ax.axhline(best, color=style[curves.baseline].color, zorder=1, **_BEST)
        for arch, line in of_size.groupby("arch", sort=False):
            draw_range(ax, line["x"], line["low"], line["high"], style[str(arch)].color)
    draw_lines(ax, curves.means, "x", "perplexity", style, dashes=curves.dashes)
    for x, y, color in curves.stars():
        ax.plot([x], [y], color=color, zorder=5, **_STAR)
    ax.set_xlim(left=-0.02 * curves.means["x"].max())  # room for the marker of an early validation
    ax.set(xlabel=curves.label, ylabel="")


def _set_axis(ax: Axes, values: "pd.Series[float]") -> None:
    set_value_axis(ax, values)
    if ax.get_yscale() == "log":
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 5.0, 7.0)))


def _unit(compute: str, most: float) -> tuple[float, str]:
    """What to divide by, and the axis's label."""
    size, name = next((u for u in _UNITS[compute] if most >= u[0]), _UNITS[compute][-1])
    if compute == "seconds":
        return _SECONDS[name], f"Training time ({name})"
    if compute == "tokens":
        return size, f"Training tokens ({name})" if name else "Training tokens"
    return size, f"Training compute ({name}FLOP)"


def _handles(curves: pd.DataFrame, drawn: _Curves) -> list[Line2D]:
    handles = [line_mark(look) for look in drawn.style.values()]
    if len(drawn.dashes) > 1:
        handles += [size_mark(size, dashes) for size, dashes in drawn.dashes.items()]
    if curves.groupby(["size", "arch"])["seed"].nunique().max() > 1:
        handles.append(range_of_seeds())
    look = drawn.style[drawn.baseline]
    handles.append(Line2D([], [], color=look.color, **_BEST, label=f"{look.label}'s best"))
    if drawn.stars():
        handles.append(Line2D([], [], color="0.4", label="first as low", **_STAR))
    return handles
