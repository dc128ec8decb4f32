"""The course of runs: loss, learning rate and loss scale over steps, and the events on the way."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from gradlab.analyses.course import EVENTS
from gradlab.errors import GradlabError
from gradlab.figures.labels import rate_label
from gradlab.figures.stability import set_value_axis
from gradlab.figures.steps_axis import BREAK, LOST, break_mark, draw_line, marked, step_axis
from gradlab.figures.style import TWO_COLUMNS, Look, legend_over, looks, paper_style, run_label

_CURVES: Mapping[str, tuple[str, float]] = {
    "loss": ("Loss\n(nats)", 1.5),
    "lr": ("Learning\nrate", 0.75),
    "loss_scale": ("Loss\nscale", 0.75),
}
"""Column → the axis's label and the panel's height in inches."""

_ROW = 0.16
"""Height of a row of events in inches."""

_MOST_ROWS = 24
"""Rows from which on they become lower, and some have no label."""

_COLORS: Mapping[str, str] = {
    "skipped": "0.5",
    "overflow": LOST,
    "not finite": "#A8328F",
    "loss not finite": "black",
}
"""Of the events."""

_SPIKE = 10
"""Times its median that a loss must reach for a logarithmic axis: else the rest would be a line."""


@dataclass(frozen=True)
class Break:
    """At which step a run of an architecture destabilised."""

    arch: str
    step: int
    seed: int | None = None


def course_panels(
    course: pd.DataFrame, events: pd.DataFrame, breaks: Sequence[Break] = ()
) -> Figure:
    """Loss, learning rate and loss scale over steps, one above the other, and rows of events below.

    A colour is an architecture, each of its seeds a line; dots are validations. A curve that no run
    recorded has no panel, nor has a loss scale that never moved. Of one run each kind of event has
    a row with its number; of several each run that had events or broke has one. A dashed line is
    the break, of several runs each in its own row too. Lines of more than 2,000 steps are thinned;
    their extremes stay.

    Args:
        course: A table of `gradlab.analyses.course.course`.
        events: A table of `gradlab.analyses.course.course_events`.
        breaks: Where runs destabilised.

    Raises:
        GradlabError: There is no step.
    """
    if course.empty:
        raise GradlabError("no step was recorded: there is nothing to draw.")
    # A run without a scaler has a scale of 1 throughout, which is none.
    scales = course.groupby(_RUN, dropna=False)["loss_scale"]
    scaled = scales.transform(lambda of: of.ne(1).any()).astype(bool)
    moved = bool((scales.nunique() > 1).any())
    course = course.assign(loss_scale=course["loss_scale"].where(scaled & moved))
    curves = [name for name in _CURVES if np.isfinite(course[name].astype("float64")).any()]
    known = course[_RUN].drop_duplicates()
    runs = [(str(arch), _known(seed)) for arch, seed in known.itertuples(index=False)]
    rows = _rows(events, runs, breaks)
    heights = [_CURVES[name][1] for name in curves]
    if rows or not curves:
        heights.append(max(_ROW * min(len(rows), _MOST_ROWS), _ROW) + 0.1)
    style = looks(arch for arch, _ in runs)
    with paper_style():
        figure, grid = plt.subplots(
            len(heights),
            1,
            figsize=(TWO_COLUMNS, 0.6 + sum(heights) + 0.08 * len(heights)),
            sharex=True,
            squeeze=False,
            height_ratios=heights,
            layout="constrained",
        )
        axes = list(grid[:, 0])
        step_axis(axes[-1], course["step"], [found.step for found in breaks])
        for ax, name in zip(axes, curves, strict=False):
            _draw_curve(ax, course, name, style)
        if len(heights) > len(curves):
            _draw_events(axes[-1], rows, one_run=len(runs) == 1)
        whole = axes if len(runs) == 1 else axes[: len(curves)]
        for found in breaks:
            of_several = {"color": style[found.arch].color, "linewidth": 0.7, "alpha": 0.7}
            for ax in whole:
                ax.axvline(found.step, **{**BREAK, **(of_several if len(runs) > 1 else {})})
        axes[-1].set_xlabel("Step")
        if len(runs) == 1:
            axes[0].set_title(run_label(style[runs[0][0]], runs[0][1]), loc="left")
        if handles := _handles(course, events, breaks, style, len(runs)):
            legend_over(figure, handles)
    return figure


_RUN = ["arch", "seed"]

_Run = tuple[str, int | None]
"""Architecture and seed of a run, which one of a loop of the user's own has not."""


def _known(seed: Any) -> int | None:
    return None if pd.isna(seed) else int(seed)


@dataclass(frozen=True)
class _Row:
    """A row of events: its label, the steps of each event in it, and those of breaks."""

    label: str
    steps: Mapping[str, Sequence[int]]
    breaks: Sequence[int] = ()


def _rows(events: pd.DataFrame, runs: Sequence[_Run], breaks: Sequence[Break]) -> list[_Row]:
    """The rows that have something to show, the first on top."""
    steps = {
        (arch, _known(seed), event): list(rows["step"])
        for (arch, seed, event), rows in events.groupby([*_RUN, "event"], dropna=False)
    }
    if len(runs) == 1:
        found = {event: steps.get((*runs[0], event), []) for event in EVENTS}
        return [_Row(f"{event} ({len(at)})", {event: at}) for event, at in found.items() if at]
    style = looks(arch for arch, _ in runs)
    several = len({seed for _, seed in runs}) > 1
    made = []
    for arch, seed in runs:
        of_run = {event: at for event in EVENTS if (at := steps.get((arch, seed, event)))}
        label = run_label(style[arch], seed if several else None)
        broke = [found.step for found in breaks if (found.arch, found.seed) == (arch, seed)]
        if of_run or broke:
            made.append(_Row(label, of_run, broke))
    return made


def _draw_curve(ax: Axes, course: pd.DataFrame, name: str, style: Mapping[str, Look]) -> None:
    for (arch, _), run in course.groupby(_RUN, sort=False, dropna=False):
        color = style[str(arch)].color
        draw_line(ax, run["step"], run[name], color=color)
        if name == "loss":
            seen = run[run["val_loss"].notna()]
            ax.plot(seen["step"], seen["val_loss"], color=color, **_VALIDATION)
    ax.set_ylabel(_CURVES[name][0])
    values = course[name].astype("float64")
    known = values[np.isfinite(values)]
    if name == "loss_scale" and known.max() > 4 * known[known > 0].min():
        _powers_of_two(ax, known[known > 0])
    elif name == "loss" and known.min() > 0 and known.max() > _SPIKE * known.median():
        set_value_axis(ax, known)
    else:
        ax.yaxis.set_major_locator(MaxNLocator(4))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda number, _: rate_label(number)))


def _powers_of_two(ax: Axes, values: "pd.Series[float]") -> None:
    """A logarithmic axis, on which a scale that has become 0 leaves at the bottom."""
    ax.set_yscale("log", base=2, nonpositive="clip")
    ax.set_ylim(values.min() / 2, values.max() * 2)
    low, high = (int(np.round(np.log2(value))) for value in (values.min(), values.max()))
    powers = MaxNLocator(4, integer=True, steps=[1, 2, 4, 8, 10]).tick_values(low, high)
    ax.yaxis.set_major_locator(FixedLocator([2.0**power for power in powers]))
    ax.yaxis.set_minor_locator(NullLocator())


_VALIDATION: Mapping[str, Any] = {
    "linestyle": "none",
    "marker": "o",
    "markersize": 3.2,
    "markeredgecolor": "white",
    "markeredgewidth": 0.4,
    "zorder": 4,
}


def _draw_events(ax: Axes, rows: Sequence[_Row], *, one_run: bool) -> None:
    limits = ax.get_xlim()
    for place, row in enumerate(rows):
        for event, steps in row.steps.items():
            shown = marked(steps, limits)
            # Of several runs each event has its own height within the run's row.
            aside = 0 if one_run else 0.2 * (EVENTS.index(event) - 1.5)
            size = 6 if one_run else 3
            look = {**_EVENT, "color": _COLORS[event], "markersize": size}
            ax.plot(shown, [place + aside] * len(shown), **look)
        ax.vlines(row.breaks, place - 0.5, place + 0.5, **BREAK)
    every = max(-(-len(rows) // _MOST_ROWS), 1)
    places = range(0, len(rows), every)
    ax.set_yticks(list(places), [rows[place].label for place in places])
    ax.set_ylim(max(len(rows), 1) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", visible=False)
    ax.spines["left"].set_visible(False)


_EVENT: Mapping[str, Any] = {
    "linestyle": "none",
    "marker": "|",
    "markersize": 6,
    "markeredgewidth": 0.8,
    "zorder": 3,
}


def _handles(
    course: pd.DataFrame,
    events: pd.DataFrame,
    breaks: Sequence[Break],
    style: Mapping[str, Look],
    runs: int,
) -> list[Line2D]:
    """Architectures where there are several, and what is not said by a row's own label."""
    handles = []
    if runs > 1:
        handles += [
            Line2D([], [], color=look.color, linewidth=1.2, label=look.label)
            for look in style.values()
        ]
        for event in EVENTS:
            if event in set(events["event"]):
                handles.append(Line2D([], [], color=_COLORS[event], label=event, **_EVENT))
    if course["val_loss"].notna().any():
        handles.append(Line2D([], [], color="0.4", label="validation", **_VALIDATION))
    if breaks:
        step = f", step {breaks[0].step}" if runs == 1 else ""
        handles.append(break_mark(f"break{step}"))
    return handles
