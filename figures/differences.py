"""How much higher or lower each architecture breaks than a baseline, by size, with intervals."""

from dataclasses import replace
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from gradlab.analyses.stability import paired_differences
from gradlab.analyses.stability_table import observations
from gradlab.errors import GradlabError, unknown
from gradlab.figures.stability import set_parameter_axis
from gradlab.figures.style import Look, legend_above, looks, paper_axes, paper_style

_LABELS = {
    "lr": "Break",
    "lr_min_loss": "LR at the lowest loss",
    "lr_collapse": "LR at the collapse",
}

_LABEL_HEIGHT = 0.07
"""Share of a one-column axis that a tick label on y takes."""

_WIDE_TICKS = (1, 2, 0.5, 10, 0.1, 5, 0.25, 100, 0.01, 1.5, 0.75, 3, 20, 0.05, 1.25)
"""Ratios that ticks may stand at, those first that matter most."""


def lr_against_baseline(
    table: pd.DataFrame, *, baseline: str | None = None, value: str = "lr", ax: Axes | None = None
) -> Axes:
    """Ratio of each architecture's learning rate to the baseline's, with a 95 % interval.

    Where figure 5 spans a decade between sizes, this shows the few per cent between architectures.
    A point is the geometric mean over the seeds that both have (`paired_differences`), its bar the
    interval, a faint point one seed. A hollow point is not distinguished from the baseline. Pairs
    with a censored run are left out. The axis is logarithmic, so that twice as high and half as
    high are as far from the baseline; it is as wide as the seeds need and three times that for the
    intervals: those of two seeds can be wider still, and then run off it.

    Args:
        table: A stability table of one ramp.
        baseline: The architecture to compare with; the table's first if None.
        value: `lr`, `lr_min_loss` or `lr_collapse`.
        ax: Where to draw; a new one-column figure if None.

    Raises:
        GradlabError: The table has several ramps, does not have the baseline, or has no pair.
    """
    architectures: list[str] = list(dict.fromkeys(table["arch"]))
    if baseline is None and architectures:
        baseline = architectures[0]
    if baseline is None or baseline not in architectures:
        raise GradlabError(unknown("baseline", baseline, architectures))
    differences = _differences_from(table, baseline, value)
    params = table.drop_duplicates(["size", "arch"]).set_index(["size", "arch"])["params"]
    others = [arch for arch in architectures if arch != baseline]
    style = looks(architectures)
    if ax is None:
        ax = paper_axes()
    with paper_style():
        aside = set_parameter_axis(ax, table, others, gap=0.03)
        ax.axhline(1, color=style[baseline].color, linewidth=0.8, zorder=1)
        largest = 0.01  # the furthest that any seed is from the baseline, as a logarithm
        for arch in others:
            rows = differences[differences["arch"] == arch]
            x = np.array([float(params[size, arch]) for size in rows["size"]]) * aside[arch]
            seeds = _seed_ratios(table, baseline, arch, value)
            for place, size in zip(x, rows["size"], strict=True):
                ratios = seeds[seeds["size"] == size]["ratio"]
                _draw_seeds(ax, place, ratios, style[arch])
                largest = max(largest, float(np.log(ratios).abs().max()))
            _draw_means(ax, x, rows, style[arch])
        _set_ratio_axis(ax, differences, largest)
        ax.yaxis.set_major_formatter(FuncFormatter(lambda ratio, _: _percent(ratio)))
        ax.set_ylabel(fill(f"{_LABELS[value]} against {style[baseline].label}", 32))
        handles = [_mark(style[arch]) for arch in others]
        hollow = differences.loc[~differences["distinguished"].astype(bool), "arch"]
        if len(hollow):
            look = replace(style[hollow.iloc[0]], label="hollow: not distinguished")
            handles.append(_mark(look, hollow=True))
        legend_above(ax, handles)
    return ax


def _differences_from(table: pd.DataFrame, baseline: str, value: str) -> pd.DataFrame:
    """The rows of `paired_differences` that compare with the baseline and have a pair."""
    if table["lr_step"].nunique() > 1:
        raise GradlabError("this figure compares runs of one ramp: choose one lr_step.")
    first = table.assign(order=table["arch"] != baseline).sort_values("order", kind="stable")
    found = paired_differences(first, value)
    found = found[(found["baseline"] == baseline) & (found["pairs"] > 0)]
    if found.empty:
        raise GradlabError(f"no seed has {value} for both {baseline} and another architecture.")
    return found


def _set_ratio_axis(ax: Axes, differences: pd.DataFrame, largest: float) -> None:
    """A logarithmic axis around 1, from which the seeds are up to `largest` away."""
    # NaN for single pairs
    low, high = np.log(differences["low"].min()), np.log(differences["high"].max())
    bottom = np.fmax(-3 * largest, np.fmin(low, -1.2 * largest))
    top = np.fmin(3 * largest, np.fmax(high, 1.2 * largest))
    edge = 0.05 * (top - bottom)
    limits = np.exp([bottom - edge, top + edge])
    ax.set_yscale("log")
    ax.set_ylim(*limits)
    wide = limits[1] / limits[0] > 2
    ticks = _apart(limits) if wide else MaxNLocator(6).tick_values(*limits)
    ax.yaxis.set_major_locator(FixedLocator([t for t in ticks if limits[0] <= t <= limits[1]]))
    ax.yaxis.set_minor_locator(NullLocator())


def _apart(limits: "np.typing.NDArray[np.float64]") -> list[float]:
    """The wide ticks whose labels have room beside those of the ones before."""
    room = _LABEL_HEIGHT * np.log(limits[1] / limits[0])
    kept: list[float] = []
    for tick in _WIDE_TICKS:
        if all(abs(np.log(tick / other)) > room for other in kept):
            kept.append(tick)
    return kept


def _percent(ratio: float) -> str:
    percent = round(100 * (ratio - 1), 6)
    return f"{percent:+g} %".replace("-", "−") if percent else "0 %"


def _seed_ratios(table: pd.DataFrame, baseline: str, arch: str, value: str) -> pd.DataFrame:
    """Each seed's ratio where both runs have the learning rate itself, not a bound on it."""
    seen = observations(table, value)
    seen = seen[~seen["bound"] & (seen["value"] > 0)]
    key = ["size", "seed"]
    mine, theirs = (seen[seen["arch"] == name][[*key, "value"]] for name in (arch, baseline))
    both = mine.merge(theirs, on=key, suffixes=("", "_baseline"))
    return both.assign(ratio=both["value"] / both["value_baseline"])


def _draw_seeds(ax: Axes, place: float, ratios: "pd.Series[float]", look: Look) -> None:
    ax.plot(
        np.full(len(ratios), place),
        ratios,
        linestyle="none",
        marker=look.marker,
        markersize=3,
        color=look.color,
        markeredgewidth=0,
        alpha=0.4,
        zorder=2,
    )


def _draw_means(
    ax: Axes, x: "np.typing.NDArray[np.float64]", rows: pd.DataFrame, look: Look
) -> None:
    ax.vlines(x, rows["low"], rows["high"], color=look.color, linewidth=1.0, zorder=3)
    for distinguished in (False, True):
        here = rows["distinguished"].to_numpy(bool) == distinguished
        ax.plot(
            x[here],
            rows["ratio"].to_numpy(float)[here],
            linestyle="none",
            marker=look.marker,
            markersize=5,
            color=look.color,
            markerfacecolor=look.color if distinguished else "white",
            markeredgewidth=1.0,
            zorder=4,
        )


def _mark(look: Look, *, hollow: bool = False) -> Line2D:
    face = "white" if hollow else look.color
    return Line2D(
        [],
        [],
        color=look.color,
        linestyle="none",
        marker=look.marker,
        markerfacecolor=face,
        label=look.label,
    )
