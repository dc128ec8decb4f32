"""A league in one figure: a row an architecture, a column a measure."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from gradlab.analyses.league import MEASURES, Measure
from gradlab.analyses.stability import NO_OVERFLOW
from gradlab.errors import GradlabError
from gradlab.figures.labels import rate_label
from gradlab.figures.style import legend_over, looks, paper_style
from gradlab.models.presets import BASELINE

WIDTH, ROW = 11.0, 0.25
"""Inches: of a slide, and of an architecture's row."""

TITLES: Mapping[str, str] = MappingProxyType(
    {
        "ramp": "LR at the break\nof a rising LR",
        "limit": "Highest LR survived\nwhen constant",
        "loss": "Validation loss at its\nbest LR, equal time",
        "sensitivity": "Loss lost over all\nLRs, on average",
        "mismatch": "Gradient of first\nover last layers",
        "headroom": "Room left in FP16\n(bits)",
        "cost": "Time of a step\nover Pre-LN's",
    }
)
"""What stands over each column."""

_BETTER, _WORSE, _APART, _ALIKE = "#0A6EBD", "#C2481A", "0.25", "0.55"


def league_panels(summary: pd.DataFrame, differences: pd.DataFrame, sites: pd.DataFrame) -> Figure:
    """Every measure of every architecture, the highest constant rate above, with 95 % intervals.

    The vertical line is the baseline. A point is filled where its architecture is told apart from
    that over the seeds of both, in the colour of better or worse; a triangle is a lower bound. The
    intervals of few seeds can be wider than a column: they are cut at its edge.

    Args:
        summary: A table of `gradlab.analyses.league.summarise_league`.
        differences: A table of `gradlab.analyses.league.league_differences`.
        sites: A table of `gradlab.analyses.league.league_overflows`.

    Raises:
        GradlabError: There is nothing to draw.
    """
    measures = [name for name in TITLES if (summary["measure"] == name).any()]
    if not measures:
        raise GradlabError("no run of the league has ended: there is nothing to draw.")
    rows = list(dict.fromkeys(summary["arch"]))
    style = looks(rows)
    has_sites = len(sites) > 0
    with paper_style():
        figure, axes = plt.subplots(
            *(1, len(measures) + has_sites),
            figsize=(WIDTH, 1.1 + ROW * len(rows)),
            sharey=True,
            squeeze=False,
            layout="constrained",
        )
        drawn: set[tuple[str, bool]] = set()
        for ax, name in zip(axes[0], measures, strict=False):
            here = summary[summary["measure"] == name].set_index("arch")
            apart = differences[differences["measure"] == name].set_index("arch")
            drawn |= _column(ax, name, here, apart, rows)
        if has_sites:
            _overflows(axes[0, -1], sites, rows)
        first = axes[0, 0]
        first.set_ylim(len(rows) - 0.5, -0.5)
        first.set_yticks(range(len(rows)), [style[arch].label for arch in rows], fontsize=7.5)
        for label, arch in zip(first.get_yticklabels(), rows, strict=True):
            label.set_fontweight("bold" if arch == BASELINE else "normal")
        bound = bool(summary.loc[summary["measure"].isin(measures), "bound"].any())
        legend_over(figure, _legend(drawn, bound=bound), loc="outside lower left")
    return figure


def _column(
    ax: Axes, name: str, here: pd.DataFrame, apart: pd.DataFrame, rows: list[str]
) -> set[tuple[str, bool]]:
    """A measure: a point and an interval for each architecture; the looks of the points."""
    drawn = set()
    measure = MEASURES[name]
    _set_axis(ax, here, geometric=measure.geometric)
    if BASELINE in here.index:
        ax.axvline(here["value"][BASELINE], color="0.6", linewidth=0.8, zorder=1)
    for place, arch in enumerate(rows):
        if place % 2 == 0:
            ax.axhspan(place - 0.5, place + 0.5, color="0.96", linewidth=0, zorder=0)
        if arch not in here.index:
            continue
        row = here.loc[arch].to_dict()
        color, filled = _colour(arch, measure, row, apart)
        drawn.add((color, filled))
        if np.isfinite(row["low"]):
            ax.hlines(place, row["low"], row["high"], color=color, linewidth=1.2, zorder=2)
        face = color if filled else "white"
        mark: Any = ">" if row["bound"] else "o"
        ax.plot(row["value"], place, mark, ms=4.5, mfc=face, mec=color, mew=1.0, zorder=3)
    side = {"higher": "\nhigher is better →", "lower": "\n← lower is better"}
    ax.set_title(TITLES[name] + side.get(measure.better, "\n1: alike"), fontsize=7, pad=4)
    ax.tick_params(axis="x", labelsize=6)
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")
    return drawn


def _colour(
    arch: str, measure: Measure, row: Mapping[Any, Any], apart: pd.DataFrame
) -> tuple[str, bool]:
    """The colour of a point, and whether it is filled."""
    if arch == BASELINE:
        return "black", True
    if not row["seeds"]:  # the cost's quartiles, which need no pairs
        alike = row["low"] <= 1 <= row["high"]
        return (_ALIKE, False) if alike else (_WORSE if row["low"] > 1 else _BETTER, True)
    if arch not in apart.index or not apart["distinguished"][arch]:
        return _ALIKE, False
    if not measure.better:
        return _APART, True
    is_higher = apart["difference"][arch] > measure.none
    return (_BETTER if is_higher == (measure.better == "higher") else _WORSE), True


def _set_axis(ax: Axes, here: pd.DataFrame, *, geometric: bool) -> None:
    """An axis with room for the points and for intervals as far as they are no wider."""
    to, back = (np.log, np.exp) if geometric else (np.asarray, np.asarray)
    shown = here[["value"]] if len(here) > 1 else here[["value", "low", "high"]].dropna(axis=1)
    values = to(shown.to_numpy(np.float64))
    span = max(float(values.max() - values.min()), 0.1)
    low, high = values.min() - 0.35 * span, values.max() + 0.35 * span
    if geometric:
        ax.set_xscale("log")
        subs = (1.0,) if high - low > 6 else (1.0, 2.0, 5.0)
        decades = LogLocator(subs=subs, numticks=5)
        ax.xaxis.set_major_locator(decades if high - low > 1.2 else MaxNLocator(4))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(FuncFormatter(lambda number, _: rate_label(number)))
    else:
        ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.set_xlim(float(back(low)), float(back(high)))


_SITE = re.compile(r"blocks\.(\d+)\.(.+)")


def _overflows(ax: Axes, sites: pd.DataFrame, rows: list[str]) -> None:
    """Where each architecture's ramps overflowed first, in words."""
    for place, arch in enumerate(rows):
        mine = sites[sites["arch"] == arch]
        if mine.empty:
            continue
        site, runs = mine["site"].iloc[0], mine["runs"].iloc[0]
        layer = _SITE.fullmatch(site)
        text = f"{layer[2]}, layer {layer[1]}" if layer else site
        text = "no overflow" if site == NO_OVERFLOW else text
        ax.text(0, place, f"{text} ({runs} of {mine['runs'].sum()})", fontsize=6, va="center")
    ax.set_title("What overflowed\nfirst (runs)\n", fontsize=7, pad=4)
    ax.set_axis_off()


_MEANINGS: Mapping[tuple[str, bool], str] = MappingProxyType(
    {
        ("black", True): "Pre-LN",
        (_BETTER, True): "better than Pre-LN",
        (_WORSE, True): "worse than Pre-LN",
        (_APART, True): "other than Pre-LN",
        (_ALIKE, False): "not told apart",
    }
)
"""The colour of a point, and whether it is filled → what that says."""


def _legend(drawn: set[tuple[str, bool]], *, bound: bool) -> list[Line2D]:
    """What the marks that are there mean."""
    mark: dict[str, Any] = {"marker": "o", "markersize": 4.5, "linewidth": 1.2}
    handles = [
        Line2D([], [], color=color, mfc=color if filled else "white", label=label, **mark)
        for (color, filled), label in _MEANINGS.items()
        if (color, filled) in drawn
    ]
    if bound:
        triangle = {**mark, "marker": ">", "color": "0.3", "mfc": "white"}
        handles.append(Line2D([], [], label="a lower bound", **triangle))
    interval = "95 % interval over seeds, cut at a column's edge; of the time, quartiles"
    return [*handles, Line2D([], [], color="0.3", linewidth=1.2, label=interval)]
