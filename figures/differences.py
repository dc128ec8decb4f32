"""How much higher or lower each architecture breaks than a baseline, by size, with intervals."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from gradlab.analyses.stability import baseline_first, paired_differences
from gradlab.analyses.stability_table import observations
from gradlab.errors import GradlabError, unknown
from gradlab.figures.stability import ROW, SEED, Places, draw_seeds, set_places
from gradlab.figures.style import Look, legend_above, looks, paper_axes, paper_style

_LABELS = {
    "lr": "Relative LR at the break",
    "lr_min_loss": "Relative LR at the lowest loss",
    "lr_collapse": "Relative LR at the collapse",
}

_LABEL = {"x": 0.19, "y": 0.12}
"""Share of a one-column axis that a tick label takes, with the room beside it."""

_WIDE_TICKS = (1, 2, 0.5, 10, 0.1, 5, 0.25, 100, 0.01, 1.5, 0.75, 3, 20, 0.05, 1.25)
"""Ratios that ticks may stand at, those first that matter most."""


def lr_against_baseline(
    table: pd.DataFrame, *, baseline: str | None = None, value: str = "lr", ax: Axes | None = None
) -> Axes:
    """Ratio of each architecture's learning rate to the baseline's, with a 95 % interval.

    Where figure 5 spans a decade between sizes, this shows the few per cent between architectures.
    A point is the geometric mean over the seeds that both have (`paired_differences`), its bar the
    interval, the small points beside it its seeds. A hollow point is not distinguished from the
    baseline. Pairs with a censored run are left out. Of one size, an architecture is a row, as in
    `lr_at_break`. The axis of ratios is logarithmic, so that twice as high and half as high are as
    far from the baseline; it is as wide as the seeds need and three times that for the intervals:
    those of two seeds can be wider still, and then an arrow says that they go on.

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
    others = [arch for arch in architectures if arch != baseline]
    style = {arch: look for arch, look in looks(architectures).items() if arch != baseline}
    label = looks(architectures)[baseline].label
    params = table.drop_duplicates(["size", "arch"])[["size", "arch", "params"]]
    means = differences.merge(params, on=["size", "arch"])
    one_size = table["size"].nunique() == 1
    if ax is None:
        ax = paper_axes(height=0.85 + ROW * len(others)) if one_size else paper_axes()
    with paper_style():
        places = set_places(ax, table, style, gap=0.07)
        seeds = pd.concat([_seed_ratios(table, baseline, arch, value) for arch in others])
        seeds = seeds.assign(place=places.at(seeds, _beside(seeds)))
        means = means.assign(place=places.at(means, -0.12))
        none = ax.axvline if one_size else ax.axhline
        none(1, color=looks(architectures)[baseline].color, linewidth=0.8, zorder=1)
        draw_seeds(ax, seeds, style, places, s=9, alpha=0.6)
        _draw_means(ax, means, style, places)
        # The furthest that any seed is from the baseline, as a logarithm.
        largest = max(0.01, float(np.log(seeds["value"]).abs().max()))
        limits = _set_ratio_axis(ax, places, differences, largest)
        _draw_arrows(ax, means, style, places, limits)
        ax.set(**{f"{places.value_axis}label": f"{_LABELS[value]}\n({label} = 0 %, log scale)"})
        if not one_size:
            ax.set_xlabel("Parameters (log scale)")
        handles = [] if one_size else [_mark(style[arch]) for arch in others]
        handles.append(_INTERVAL)
        hollow = differences.loc[~differences["distinguished"].astype(bool), "arch"]
        if len(hollow):
            look = replace(style[hollow.iloc[0]], label="hollow: not distinguished")
            handles.append(_mark(look, hollow=True))
        legend_above(ax, [*handles, SEED])
    return ax


def _differences_from(table: pd.DataFrame, baseline: str, value: str) -> pd.DataFrame:
    """The rows of `paired_differences` that compare with the baseline and have a pair."""
    if table["lr_step"].nunique() > 1:
        raise GradlabError("this figure compares runs of one ramp: choose one lr_step.")
    found = paired_differences(baseline_first(table, baseline), value)
    found = found[(found["baseline"] == baseline) & (found["pairs"] > 0)]
    if found.empty:
        raise GradlabError(f"no seed has {value} for both {baseline} and another architecture.")
    return found


def _set_ratio_axis(
    ax: Axes, places: Places, differences: pd.DataFrame, largest: float
) -> tuple[float, float]:
    """A logarithmic axis around 1, from which the seeds are up to `largest` away; its limits."""
    # NaN for single pairs
    low, high = np.log(differences["low"].min()), np.log(differences["high"].max())
    bottom = np.fmax(-3 * largest, np.fmin(low, -1.2 * largest))
    top = np.fmin(3 * largest, np.fmax(high, 1.2 * largest))
    edge = 0.05 * (top - bottom)
    least, most = np.exp([bottom - edge, top + edge]).tolist()
    name = places.value_axis
    axis = ax.xaxis if name == "x" else ax.yaxis
    ax.set(**{f"{name}scale": "log", f"{name}lim": (least, most)})
    few = MaxNLocator(4 if name == "x" else 6)
    room = _LABEL[name] * np.log(most / least)
    ticks = _apart(room) if most / least > 2 else few.tick_values(least, most)
    axis.set_major_locator(FixedLocator([tick for tick in ticks if least <= tick <= most]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda ratio, _: _percent(ratio)))
    return least, most


def _apart(room: float) -> list[float]:
    """The wide ticks whose labels have room, a logarithm, beside those of the ones before."""
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
    mine, theirs = (seen[seen["arch"] == name] for name in (arch, baseline))
    both = mine.merge(theirs[[*key, "value"]], on=key, suffixes=("", "_baseline"))
    return both.assign(value=both["value"] / both["value_baseline"])


def _beside(seeds: pd.DataFrame) -> "pd.Series[float]":
    """How far each seed stands aside, so that the mean and its interval are not under them."""
    of_mean = seeds.groupby(["size", "arch"])["seed"]
    return 0.12 + 0.3 * (of_mean.rank(method="first") - 1) / (of_mean.transform("size") - 1).clip(
        lower=2
    )


def _draw_means(ax: Axes, means: pd.DataFrame, style: Mapping[str, Look], places: Places) -> None:
    bars = ax.hlines if places.one_size else ax.vlines
    for (arch, told), rows in means.groupby(["arch", "distinguished"]):
        color = style[str(arch)].color
        bars(rows["place"], rows["low"], rows["high"], color=color, linewidth=1.0, zorder=3)
        ax.plot(
            *places.xy(rows["place"], rows["ratio"]),
            linestyle="none",
            marker=style[str(arch)].marker,
            markersize=5,
            color=color,
            markerfacecolor=color if told else "white",
            markeredgewidth=1.0,
            zorder=5,
        )


def _draw_arrows(
    ax: Axes,
    means: pd.DataFrame,
    style: Mapping[str, Look],
    places: Places,
    limits: tuple[float, float],
) -> None:
    """At the edge of the axis, where an interval goes on beyond it."""
    least, most = limits
    for edge, marker, beyond in (
        (least, "<" if places.one_size else "v", means["low"] < least),
        (most, ">" if places.one_size else "^", means["high"] > most),
    ):
        for arch, rows in means[beyond].groupby("arch"):
            ax.plot(
                *places.xy(rows["place"], np.full(len(rows), edge)),
                linestyle="none",
                marker=marker,
                markersize=4,
                color=style[str(arch)].color,
                clip_on=False,
                zorder=6,
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


_INTERVAL = Line2D([], [], color="0.4", linewidth=1.0, label="95 % interval")
