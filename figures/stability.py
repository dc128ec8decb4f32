"""Figure 5 of the NormFormer paper: the learning rate that each architecture survives, by size."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from gradlab.analyses.stability import summarise_stability
from gradlab.analyses.stability_table import observations
from gradlab.errors import GradlabError
from gradlab.figures.labels import count_label, plain_label, rate_label
from gradlab.figures.style import (
    DASHES,
    Look,
    asides,
    draw_lines,
    encoding,
    legend_above,
    line_mark,
    linestyle,
    looks,
    paper_axes,
    paper_style,
)

AXIS_LABELS = {
    "lr": "Learning rate at the break",
    "lr_min_loss": "Learning rate at the lowest loss",
    "lr_collapse": "Learning rate at the collapse",
}

LOG_FROM = 4.0
"""Ratio of the highest to the lowest value from which an axis is logarithmic."""

_DECADES = 200.0
"""Ratio from which an axis has ticks at powers of ten alone."""

_LABEL_WIDTH = 0.12
"""Share of a one-column axis that a tick label on x takes."""

ROW = 0.3
"""Height of an architecture's row in inches."""


@dataclass(frozen=True)
class Places:
    """Where the points of each architecture stand.

    Attributes:
        one_size: Whether an architecture is a row on y. Otherwise x is parameters, on a logarithmic
            axis, and architectures are set aside from each other there.
        of_arch: Their rows, or the logarithms of the factors that set them aside.
        unit: From one architecture to the next, likewise.
    """

    one_size: bool
    of_arch: Mapping[str, float]
    unit: float

    @property
    def value_axis(self) -> Literal["x", "y"]:
        """The axis that values are on."""
        return "x" if self.one_size else "y"

    def at(self, runs: pd.DataFrame, shares: Any = 0.0) -> "pd.Series[float]":
        """Where rows with columns arch and params stand, some shares of a unit aside."""
        place: pd.Series[float] = runs["arch"].map(self.of_arch).astype(float) + self.unit * shares
        return place if self.one_size else runs["params"].astype(float) * place.map(np.exp)

    def xy(self, places: Any, values: Any) -> tuple[Any, Any]:
        """Places and values as x and y."""
        return (values, places) if self.one_size else (places, values)


def lr_at_break(table: pd.DataFrame, *, value: str = "lr", ax: Axes | None = None) -> Axes:
    """Learning rate against parameters: a marker a run, a bar the median of the seeds.

    Medians of several sizes are joined by a line, one for each ramp; of one size, each architecture
    (and ramp) is a row, and the learning rate is on x. Seeds stand beside each other, and so do
    architectures, whose parameters differ by about 1 % at one size. A run that the cap on steps
    ended is a hollow triangle that points to where its break is; a median that such runs could move
    is one too; where all are, the axis says that no run broke. Runs that failed are not drawn.

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
    summary = summarise_stability(table)
    summary = summary[summary[f"{value}_median"].notna()]
    median = {"value": summary[f"{value}_median"], "bound": summary[f"{value}_median_bound"]}
    medians = summary.assign(**median).sort_values("params")
    style = looks(summary["arch"])
    ramps = sorted(seen["lr_step"].unique(), reverse=True)
    dashes = {f"{ramp:g}": DASHES[index % len(DASHES)] for index, ramp in enumerate(ramps)}
    one_size = seen["size"].nunique() == 1
    if one_size and len(ramps) > 1:
        style, seen, medians = _ramp_rows(style, ramps, seen, medians)
    if ax is None:
        ax = paper_axes(height=0.75 + ROW * len(style)) if one_size else paper_axes()
    several_seeds = bool(seen.groupby(["size", "arch", "lr_step"]).size().max() > 1)
    with paper_style():
        places = set_places(ax, seen, style)
        if not one_size:
            lines = medians.assign(size=medians["lr_step"].map("{:g}".format))
            lines = lines.assign(place=places.at(lines))
            draw_lines(ax, lines, "place", "value", style, dashes=dashes, markers=False)
        draw_seeds(ax, seen.assign(place=places.at(seen, _spread(seen))), style, places)
        if several_seeds:
            _draw_medians(ax, medians.assign(place=places.at(medians)), style, places)
        _set_values(ax, places, seen, AXIS_LABELS[value])
        handles = [] if one_size else [line_mark(look) for look in style.values()]
        if not one_size and len(ramps) > 1:
            handles += [_ramp_line(ramp, dashes[f"{ramp:g}"]) for ramp in ramps]
        handles += [SEED if several_seeds else _ONE_SEED, *[_median_mark(places)] * several_seeds]
        if seen["bound"].any():
            handles.append(_bound_mark(places))
        legend_above(ax, handles, columns=4)
    return ax


def _ramp_rows(
    style: Mapping[str, Look], ramps: Sequence[float], *tables: pd.DataFrame
) -> tuple[Any, ...]:
    """Looks and tables in which an architecture under a ramp counts as an architecture."""
    rows = {
        f"{arch}\n{ramp:g}": replace(look, label=f"{look.label}, +{rate_label(ramp)} a step")
        for (arch, look), ramp in product(style.items(), ramps)
    }
    named = [t.assign(arch=t["arch"] + "\n" + t["lr_step"].map("{:g}".format)) for t in tables]
    present = set(named[0]["arch"])
    return ({row: look for row, look in rows.items() if row in present}, *named)


def set_places(
    ax: Axes, runs: pd.DataFrame, style: Mapping[str, Look], *, gap: float = 0.05
) -> Places:
    """An axis for architectures: rows on y for one size, else parameters on a logarithmic x.

    Args:
        ax: Its x or y axis is set.
        runs: Columns size and params.
        style: The architectures, in the order in which they stand beside each other.
        gap: Between two of them, as a share of the axis of parameters, if there is room.
    """
    sizes = runs.groupby("size", sort=False)["params"].median().astype(float).sort_values()
    if len(sizes) == 1:
        ax.set_yticks(range(len(style)), [look.label for look in style.values()])
        ax.set_ylim(len(style) - 0.4, -0.6)  # the first on top
        ax.grid(False, axis="y")
        ax.tick_params(axis="y", length=0)
        return Places(True, {arch: float(row) for row, arch in enumerate(style)}, 1.0)
    low, high = float(runs["params"].min()), float(runs["params"].max())
    room = max((high / low) ** 0.1, 1.25)
    low, high = low / room, high * room
    span = np.log(high / low)
    ax.set_xscale("log")
    ax.set_xlim(low, high)
    ax.xaxis.set_major_locator(FixedLocator(_apart(sizes.tolist(), high / low)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda number, _: count_label(number)))
    ax.grid(False, axis="x")
    nearest = float(np.diff(np.log(sizes)).min() / span)
    unit = min(gap, min(0.14, max(0.6 * nearest, 0.03)) / max(len(style) - 1, 1))
    shares = asides(list(style), unit, most=1)
    return Places(False, {arch: span * share for arch, share in shares.items()}, span * unit)


def _set_values(ax: Axes, places: Places, seen: pd.DataFrame, label: str) -> None:
    """The axis of values, and the other one's name."""
    if seen["bound"].all():
        label = f"{label.partition(' at ')[0]} reached,\nat which no run broke"
    set_value_axis(ax, seen["value"], places.value_axis)
    if places.one_size:
        size, params = plain_label(seen["size"].iloc[0]), count_label(seen["params"].median())
        ax.set_xlabel(f"{label}{scale_note(ax, 'x')}\n({size}, {params} parameters)")
    else:
        ax.set_xlabel("Parameters (log scale)")
        ax.set_ylabel(f"{label}{scale_note(ax)}")


def _apart(places: Sequence[float], span: float) -> list[float]:
    """The places whose labels have room on a logarithmic axis that spans a ratio of `span`."""
    kept: list[float] = []
    for place in places:
        if not kept or np.log(place / kept[-1]) > _LABEL_WIDTH * np.log(span):
            kept.append(place)
    return kept


def set_value_axis(ax: Axes, values: "pd.Series[float]", name: Literal["x", "y"] = "y") -> None:
    """Room for the values: a logarithmic axis where they are positive and span enough."""
    low, high = float(values.min()), float(values.max())
    axis = ax.xaxis if name == "x" else ax.yaxis
    if low > 0 and high / low > LOG_FROM:
        factor = (high / low) ** 0.08
        ax.set(**{f"{name}scale": "log", f"{name}lim": (low / factor, high * factor)})
        subs = (1.0,) if high > _DECADES * low else (1.0, 2.0, 5.0)
        axis.set_major_locator(LogLocator(subs=subs, numticks=7))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda number, _: rate_label(number)))
    else:
        room: dict[str, Any] = {name: 0.15}
        ax.margins(**room)
        if low == high:
            edge = 0.2 * abs(low) or 0.5
            ax.set(**{f"{name}lim": (low - edge, low + edge)})
        axis.set_major_locator(MaxNLocator(4 if name == "x" else 5))
        axis.set_major_formatter(FuncFormatter(lambda number, _: rate_label(round(number, 12))))


def scale_note(ax: Axes, name: Literal["x", "y"] = "y") -> str:
    """What a label says of its axis where that is logarithmic."""
    return " (log scale)" if (ax.get_xscale() if name == "x" else ax.get_yscale()) == "log" else ""


def _spread(runs: pd.DataFrame) -> "pd.Series[float]":
    """How far aside a run stands, among those of its size, architecture and ramp: ±0.16 at most."""
    seeds = runs.groupby(["size", "arch", "lr_step"])["seed"]
    count = seeds.transform("size")
    return (seeds.rank(method="first") - (count + 1) / 2) * 0.32 / (count - 1).clip(lower=2)


def draw_seeds(
    ax: Axes, points: pd.DataFrame, style: Mapping[str, Look], places: Places, **look: Any
) -> None:
    """A marker for every run: columns arch, place, value and, if some are lower bounds, bound."""
    bound = points["bound"] if "bound" in points else pd.Series(False, index=points.index)
    x, y = places.xy("place", "value")
    options: dict[str, Any] = {"s": 14, "linewidth": 0.4, "zorder": 4, **look}
    if not bound.all():  # seaborn warns of a palette without points
        seaborn.scatterplot(points[~bound], x=x, y=y, ax=ax, **encoding(style), **options)
    ax.set(xlabel="", ylabel="")  # seaborn writes the names of the columns
    for arch, group in points[bound].groupby("arch"):
        color = style[str(arch)].color
        ax.plot(group[x], group[y], color=color, **_bound_look(places), markersize=4, zorder=4)


def _draw_medians(
    ax: Axes, medians: pd.DataFrame, style: Mapping[str, Look], places: Places
) -> None:
    for (arch, bound), group in medians.groupby(["arch", "bound"]):
        look = _bound_look(places) if bound else _median_look(places)
        size = 6.5 if bound else look["markersize"]
        options: dict[str, Any] = {**look, "markersize": size, "zorder": 3.5}
        ax.plot(*places.xy(group["place"], group["value"]), color=style[str(arch)].color, **options)


def _bound_look(places: Places) -> dict[str, Any]:
    marker = ">" if places.one_size else "^"
    face = {"markerfacecolor": "white", "markeredgewidth": 0.8}
    return {"linestyle": "none", "marker": marker, **face}


def _median_look(places: Places) -> dict[str, Any]:
    marker = "|" if places.one_size else "_"
    return {"linestyle": "none", "marker": marker, "markersize": 14, "markeredgewidth": 1.5}


def _ramp_line(ramp: float, dashes: Any) -> Line2D:
    label = f"+{rate_label(ramp)} a step"
    return Line2D([], [], color="0.4", linestyle=linestyle(dashes), label=label)


def _median_mark(places: Places) -> Line2D:
    look = {**_median_look(places), "markersize": 7}
    return Line2D([], [], color="0.4", label="median", **look)


def _bound_mark(places: Places) -> Line2D:
    return Line2D([], [], color="0.4", label="lower bound", **_bound_look(places))


SEED = Line2D([], [], color="0.4", linestyle="none", marker="o", markersize=3.5, label="a seed")
"""What `draw_seeds` draws, for a legend."""

_ONE_SEED = Line2D([], [], color="0.4", linestyle="none", marker="o", markersize=3.5)
_ONE_SEED.set_label("one seed")
