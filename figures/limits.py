"""The highest constant learning rate against the ramp's answer."""

import pandas as pd
from matplotlib.axes import Axes

from gradlab.errors import GradlabError
from gradlab.figures.stability import scale_note, set_value_axis
from gradlab.figures.style import legend_above, line_mark, looks, paper_axes, paper_style


def limit_against_ramp(limits: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """A marker for each architecture and seed; on the dotted line the two answers are equal.

    The bar is from the highest rate survived to the lowest not.

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
            ax.vlines(rows["ramp"], rows["low"], rows["high"], color=look.color, alpha=0.4)
            ax.plot(
                *(rows["ramp"], rows["low"]),
                look.marker,
                color=look.color,
                ms=4,
                mec="white",
                mew=0.4,
            )
        ends = (values.min(), values.max())
        ax.plot(ends, ends, color="0.5", linewidth=0.8, linestyle=":", zorder=1)
        ax.set_xlabel(f"LR at the ramp's break{scale_note(ax, 'x')}")
        ax.set_ylabel(f"Highest constant LR{scale_note(ax)}")
        legend_above(ax, [line_mark(look, linestyle="none") for look in style.values()])
    return ax
