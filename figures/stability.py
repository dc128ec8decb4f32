"""Figure 5 of the NormFormer paper: the learning rate that each architecture survives, by size."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from gradlab.analyses.stability import summarise_stability
from gradlab.analyses.stability_table import observations
from gradlab.errors import GradlabError
from gradlab.figures.labels import count_label, rate_label
from gradlab.figures.style import (
    DASHES,
    Look,
    asides,
    legend_above,
    looks,
    paper_axes,
    paper_style,
)

AXIS_LABELS = {
    "lr": "Learning rate at the break",
    "lr_min_loss": "Learning rate at the lowest loss",
    "lr_collapse": "Learning rate at the collapse",
}

_LOG_FROM = 4.0
"""Ratio of the highest to the lowest value from which an axis is logarithmic."""

_LABEL_WIDTH = 0.12
"""Share of a one-column axis that a tick label on x takes."""


def lr_at_break(table: pd.DataFrame, *, value: str = "lr", ax: Axes | None = None) -> Axes:
    """Learning rate against parameters: medians joined by a line, every seed a faint point.

    A run that the cap on steps ended is a hollow triangle that points up: its break is higher. A
    median that such runs could move is hollow too. Architectures differ by about 1 % in parameters
    at one size, so their points are set aside by a few hundredths of the axis. Several ramps have
    a line style each. Runs that failed are not drawn.

    Args:
        table: A stability table (`gradlab.analyses.stability_table.read_stability`).
        value: `lr`, `lr_min_loss` or `lr_collapse`.
        ax: Where to draw; a new one-column figure if None.

    Raises:
        GradlabError: No run in the table has that learning rate.
    """
    seen = observations(table, value)
    if seen.empty:
        raise GradlabError(f"no run of this study has {value}: there is nothing to draw.")
    if ax is None:
        ax = paper_axes()
    summary = summarise_stability(table)
    style = looks(summary["arch"])
    ramps = sorted(seen["lr_step"].unique(), reverse=True)
    dashes = {ramp: DASHES[index % len(DASHES)] for index, ramp in enumerate(ramps)}
    with paper_style():
        aside = set_parameter_axis(ax, seen, list(style))
        for arch, ramp in product(style, ramps):
            points, medians = (
                rows[(rows["arch"] == arch) & (rows["lr_step"] == ramp)] for rows in (seen, summary)
            )
            _draw_seeds(ax, points, style[arch], aside[arch])
            _draw_medians(ax, medians, value, style[arch], aside[arch], dashes[ramp])
        ax.set_ylabel(AXIS_LABELS[value])
        set_value_axis(ax, seen["value"])
        several = seen["size"].nunique() > 1
        handles = [_median_line(look, "-" if several else "none") for look in style.values()]
        if len(ramps) > 1:
            handles += [_ramp_line(ramp, dashes[ramp]) for ramp in ramps]
        if seen["bound"].any():
            handles.append(_BOUND_MARK)
        legend_above(ax, handles)
    return ax


def set_parameter_axis(
    ax: Axes, runs: pd.DataFrame, architectures: Sequence[str], *, gap: float = 0.02
) -> dict[str, float]:
    """Parameters on a logarithmic x, a tick a size.

    Args:
        ax: Its x axis is set.
        runs: Columns size and params.
        architectures: In the order in which their points stand beside each other.
        gap: Between two of them, as a share of the axis, if there is room for all; wider where
            there is one size only.

    Returns:
        The factor on x that sets each architecture's points aside.
    """
    sizes = runs.groupby("size", sort=False)["params"].median().astype(float).sort_values()
    low, high = float(runs["params"].min()), float(runs["params"].max())
    room = max((high / low) ** 0.08, 1.25) if len(sizes) > 1 else 1.25
    low, high = low / room, high * room
    ax.set_xscale("log")
    ax.set_xlim(low, high)
    ax.xaxis.set_major_locator(FixedLocator(_apart(sizes.tolist(), high / low)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda number, _: count_label(number)))
    ax.grid(False, axis="x")
    ax.set_xlabel("Parameters")
    several = len(sizes) > 1
    shares = asides(architectures, gap if several else 0.12, most=0.1 if several else 0.84)
    return {arch: float((high / low) ** share) for arch, share in shares.items()}


def _apart(places: Sequence[float], span: float) -> list[float]:
    """The places whose labels have room on a logarithmic axis that spans a ratio of `span`."""
    kept: list[float] = []
    for place in places:
        if not kept or np.log(place / kept[-1]) > _LABEL_WIDTH * np.log(span):
            kept.append(place)
    return kept


def set_value_axis(ax: Axes, values: "pd.Series[float]") -> None:
    """Room for the values on y: logarithmic where they are positive and span enough."""
    low, high = float(values.min()), float(values.max())
    if low > 0 and high / low > _LOG_FROM:
        ax.set_yscale("log")
        ax.set_ylim(low / (high / low) ** 0.08, high * (high / low) ** 0.08)
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        ax.yaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_major_formatter(FuncFormatter(lambda number, _: rate_label(number)))
    else:
        ax.margins(y=0.15)


def _draw_seeds(ax: Axes, points: pd.DataFrame, look: Look, aside: float) -> None:
    for bound, group in points.groupby("bound"):
        ax.plot(
            group["params"].to_numpy(float) * aside,
            group["value"],
            linestyle="none",
            marker="^" if bound else look.marker,
            markersize=4 if bound else 3,
            color=look.color,
            markerfacecolor="none" if bound else look.color,
            markeredgewidth=0.7 if bound else 0,
            alpha=0.8 if bound else 0.4,
            zorder=2,
        )


def _draw_medians(
    ax: Axes, medians: pd.DataFrame, value: str, look: Look, aside: float, dashes: Any
) -> None:
    medians = medians[medians[f"{value}_median"].notna()].sort_values("params")
    x = medians["params"].to_numpy(float) * aside
    y = medians[f"{value}_median"].to_numpy(float)
    ax.plot(x, y, color=look.color, linestyle=dashes, zorder=3)
    for bound in (False, True):
        here = medians[f"{value}_median_bound"].to_numpy(bool) == bound
        ax.plot(
            x[here],
            y[here],
            linestyle="none",
            marker="^" if bound else look.marker,
            markersize=6 if bound else 4.5,
            color=look.color,
            markerfacecolor="white" if bound else look.color,
            markeredgecolor=look.color if bound else "white",
            markeredgewidth=1.0 if bound else 0.5,
            zorder=4,
        )


def _median_line(look: Look, dashes: Any) -> Line2D:
    edge: Mapping[str, Any] = {"markeredgecolor": "white", "markeredgewidth": 0.5}
    return Line2D(
        [], [], color=look.color, linestyle=dashes, marker=look.marker, label=look.label, **edge
    )


def _ramp_line(ramp: float, dashes: Any) -> Line2D:
    return Line2D([], [], color="0.4", linestyle=dashes, label=f"+{rate_label(ramp)} a step")


_BOUND_MARK = Line2D(
    [],
    [],
    color="0.4",
    linestyle="none",
    marker="^",
    markerfacecolor="none",
    markeredgewidth=0.7,
    label="lower bound",
)
