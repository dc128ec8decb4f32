"""Loss against the learning rate: Table 1 of the NormFormer paper, with what lies around it."""

from typing import Any

import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from gradlab.analyses.lr_search import entered_losses, losses_by_rate, summarise_search
from gradlab.errors import GradlabError
from gradlab.figures.labels import rate_label
from gradlab.figures.style import (
    Look,
    asides,
    draw_lines,
    encoding,
    legend_above,
    line_mark,
    looks,
    paper_axes,
    paper_style,
)

_LABEL_WIDTH = 0.11
"""Share of a one-column axis that a tick label on x takes."""

_GAP = 0.018
"""Between the points of two architectures at one rate, as a share of the axis."""


def loss_by_rate(losses: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Final validation loss against the learning rate, a line for each architecture.

    The line joins means over seeds of what the runs entered with: their final loss, or where they
    diverged their loss at initialisation. Every run is a small point; a run that diverged is a
    cross. A ring marks the best rate of each architecture. The points of the architectures are
    set aside from each other by a fiftieth of the axis, or less where there are many.

    Args:
        losses: A table of `gradlab.analyses.final_losses.final_losses`.
        ax: Where to draw; a new one-column figure if None.

    Raises:
        GradlabError: No run in the table has ended.
    """
    ended = entered_losses(losses)
    ended = ended[ended["entered"].notna()]
    if ended.empty:
        raise GradlabError("no run of this search has ended: there is nothing to draw.")
    if ax is None:
        ax = paper_axes()
    means, best = losses_by_rate(losses), summarise_search(losses).set_index("arch")["best_lr"]
    style = looks(losses["arch"])
    with paper_style():
        aside = _set_rate_axis(ax, sorted(losses["lr"].unique()), list(style))
        means = means.assign(place=means["lr"] * means["arch"].map(aside))
        ended = ended.assign(place=ended["lr"] * ended["arch"].map(aside))
        # Where every run diverged the crosses say all there is, and the line goes there alone.
        stayed = means[means["diverged"] < means["runs"]]
        draw_lines(ax, means, "place", "loss", style, markers=False, linewidth=1.2)
        stable = ended[~ended["diverged"].astype(bool)]
        if len(stable):  # seaborn warns of a palette without points
            shared: dict[str, Any] = {"x": "place", "ax": ax, **encoding(style)}
            seaborn.scatterplot(stayed, y="loss", s=20, linewidth=0.5, zorder=4, **shared)
            seaborn.scatterplot(
                stable, y="entered", s=9, linewidth=0, alpha=0.4, zorder=2, **shared
            )
        for arch, look in style.items():
            _draw_diverged(ax, ended[ended["diverged"] & (ended["arch"] == arch)], look)
            _ring_best(ax, means[(means["arch"] == arch) & (means["lr"] == best[arch])], look)
        ax.set_xlabel("Peak learning rate (log scale)")
        ax.set_ylabel("Validation loss (nats a token)")
        ax.margins(y=0.08)
        handles = [line_mark(look) for look in style.values()]
        if ended.groupby(["arch", "lr"]).size().max() > 1:
            handles.append(_RUN)
        handles.append(_BEST)
        if ended["diverged"].any():
            handles.append(_DIVERGED)
        legend_above(ax, handles)
    return ax


def _set_rate_axis(ax: Axes, rates: list[float], architectures: list[str]) -> dict[str, float]:
    """Rates on a logarithmic x, a tick a rate where there is room.

    Returns:
        The factor on x that sets each architecture's points aside.
    """
    low, high = rates[0], rates[-1]
    room = (high / low) ** 0.06 if high > low else 1.5
    low, high = low / room, high * room
    ax.set_xscale("log")
    ax.set_xlim(low, high)
    span = np.log(high / low)
    ticks: list[float] = []
    for rate in rates:
        if not ticks or np.log(rate / ticks[-1]) > _LABEL_WIDTH * span:
            ticks.append(rate)
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda number, _: rate_label(number)))
    shares = asides(architectures, _GAP, most=0.08)
    return {arch: float((high / low) ** share) for arch, share in shares.items()}


def _draw_diverged(ax: Axes, runs: pd.DataFrame, look: Look) -> None:
    ax.plot(
        runs["place"],
        runs["entered"],
        linestyle="none",
        marker="x",
        markersize=4.5,
        markeredgewidth=0.9,
        color=look.color,
        zorder=2,
    )


def _ring_best(ax: Axes, mean: pd.DataFrame, look: Look) -> None:
    ax.plot(
        mean["place"],
        mean["loss"],
        linestyle="none",
        marker="o",
        markersize=8.5,
        color="none",
        markeredgecolor=look.color,
        markeredgewidth=0.9,
        zorder=5,
    )


_RUN = Line2D([], [], color="0.4", alpha=0.4, linestyle="none", marker="o", markersize=3)
_RUN.set_label("a seed")

_BEST = Line2D(
    [],
    [],
    color="none",
    marker="o",
    markersize=7,
    markeredgecolor="0.4",
    markeredgewidth=0.9,
    label="best rate",
)

_DIVERGED = Line2D(
    [],
    [],
    color="0.4",
    linestyle="none",
    marker="x",
    markeredgewidth=0.9,
    label="diverged",
)
