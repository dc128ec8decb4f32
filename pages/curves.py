"""The curves of a page that answer the pointer: each run's, thinned to what a page may weigh."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from gradlab.analyses.run_curves import Line, RunCurves, Scale, run_curves
from gradlab.figures.steps_axis import thinned
from gradlab.runs.reader import Run

_POINTS = 200_000
"""Points of a page at most."""

_BYTES = 12
"""Of a point, with its step."""

_LEAST = 100
"""Points of a line with which it still has a shape: of more lines, the last runs have none."""


@dataclass(frozen=True)
class Curves:
    """What a page draws when it is asked for.

    Attributes:
        runs: By the name of each run that has curves, what the page's script draws.
        notes: What is not there, and why, a sentence each.
    """

    runs: Mapping[str, Mapping[str, Any]]
    notes: Sequence[str]


def page_curves(runs: Mapping[str, Run], room: int = _POINTS * _BYTES) -> Curves:
    """The curves of the runs, as far as a page has room for them.

    Args:
        runs: By name.
        room: Bytes; a tenth of what a page may have of curves is theirs in any case.
    """
    points = min(max(room // _BYTES, _POINTS // 10), _POINTS)
    notes: list[str] = []
    every = {name: found for name, run in runs.items() if (found := run_curves(run, notes.append))}
    kept: dict[str, RunCurves] = {}
    lines = 0
    for name, curves in every.items():
        lines += _count(curves)
        if kept and lines * _LEAST > points:
            break
        kept[name] = curves
    if len(kept) < len(every):
        notes.append(
            f"Curves are those of the first {len(kept)} of {len(every)} runs: a page has no room "
            "for more, and gradlab report RUN makes one of a run alone."
        )
    most = points // max(sum(map(_count, kept.values())), 1)
    return Curves({name: _drawn(curves, most) for name, curves in kept.items()}, notes)


def library() -> dict[str, Markup]:
    """uPlot, which draws them: its script, style sheet and license, none of which is a template."""
    folder = files("gradlab.pages") / "uplot"
    names = {"script": "uPlot.iife.min.js", "style": "uPlot.min.css", "license": "LICENSE"}
    return {what: Markup((folder / name).read_text("utf-8")) for what, name in names.items()}


def _count(curves: RunCurves) -> int:
    return len(curves.events) + sum(len(panel.lines) for panel in curves.panels)


def _drawn(curves: RunCurves, most: int) -> dict[str, Any]:
    lines = [line for panel in curves.panels for line in panel.lines]
    return {
        "first": curves.first,
        "last": curves.last,
        "broke": curves.break_step,
        "thinned": any(len(line.steps) > most for line in lines),
        "panels": [
            {
                "title": panel.title,
                "scale": panel.scale,
                "lines": [_line(line, most, panel.scale) for line in panel.lines],
            }
            for panel in curves.panels
        ],
        "events": [
            {"name": f"{kind} ({len(steps)})", "steps": _differences(_seen(steps, most))}
            for kind, steps in curves.events.items()
        ],
    }


def _line(line: Line, most: int, scale: Scale) -> dict[str, Any]:
    digits = 9 if scale == "log 2" else 4  # a power of two is known by its digits
    kept = thinned(line.values, most)
    values = line.values[kept]
    return {
        "name": line.name,
        "depth": None if line.depth is None else round(line.depth, 3),
        "steps": _differences(line.steps[kept]),
        "values": [None if np.isnan(value) else float(f"{value:.{digits}g}") for value in values],
    }


def _differences(steps: NDArray[np.int64]) -> list[int]:
    """The first step, and how much further each next one is: short in a file."""
    return [int(step) for step in np.diff(steps, prepend=0)]


def _seen(steps: Sequence[int], most: int) -> NDArray[np.int64]:
    """The first of each few steps, if there are more than a line has points."""
    every = np.asarray(steps, np.int64)
    if len(every) <= most:
        return every
    stretch = (every[-1] - every[0]) // most + 1
    return every[np.unique((every - every[0]) // stretch, return_index=True)[1]]
