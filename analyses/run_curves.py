"""All that a run shows of itself step by step, as panels of lines, whatever the tables it has."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gradlab.analyses.course import course, course_events
from gradlab.analyses.headroom import tightest_by_layer
from gradlab.analyses.layer_courses import gradient_courses, score_courses, update_courses
from gradlab.errors import GradlabError
from gradlab.runs.reader import Run

Scale = Literal["linear", "log 2", "log 10"]

OUTSIDE = "outside the layers"


@dataclass(frozen=True, eq=False)
class Line:
    """One line.

    Attributes:
        name: What it is: `layer 3`, `fc2`, `loss`.
        steps: Where it is known, ascending, each once.
        values: There; NaN is a gap.
        depth: Of a layer, from 0 (the first) to 1 (the last); None for what is none.
    """

    name: str
    steps: NDArray[np.int64]
    values: NDArray[np.float64]
    depth: float | None = None


@dataclass(frozen=True)
class Panel:
    """Lines on one scale.

    Attributes:
        title: What they show, with its unit.
        scale: Logarithmic where the largest value is more than ten times the least, and of a loss
            scale; linear of a learning rate and of bits.
        lines: In the order of a legend.
    """

    title: str
    scale: Scale
    lines: Sequence[Line]


@dataclass(frozen=True)
class RunCurves:
    """What a run shows of itself.

    Attributes:
        first: Its first recorded step.
        last: Its last.
        break_step: Where it destabilised; None if it did not.
        panels: The curves.
        events: The steps of each kind of event that there was, in the order of
            `gradlab.analyses.course.EVENTS`.
    """

    first: int
    last: int
    break_step: int | None
    panels: Sequence[Panel]
    events: dict[str, Sequence[int]]


def run_curves(run: Run, note: Callable[[str], None]) -> RunCurves | None:
    """The course of a run, and its gradients, updates, headroom and scores by layer.

    Args:
        run: The run.
        note: Told of each table that cannot be read: its curves are left out.

    Returns:
        The curves, or None if no step was recorded.
    """
    try:
        steps = course([run])
        events = course_events([run])
    except GradlabError as error:
        note(str(error))
        return None
    if steps.empty:
        return None
    verdict = run.verdict
    return RunCurves(
        int(steps["step"].min()),
        int(steps["step"].max()),
        verdict.step if verdict is not None and verdict.broke else None,
        [*_course_panels(steps), *_layer_panels(run, note)],
        {str(kind): list(rows["step"]) for kind, rows in events.groupby("event", sort=False)},
    )


_SPREAD = 10
"""Times its least value that a largest one must reach for a logarithmic scale."""

_BASES = {"Loss (nats)": 10, "Learning rate": None, "Loss scale": 2}
"""Of the scale, if it is logarithmic."""


def _course_panels(steps: pd.DataFrame) -> Iterator[Panel]:
    scaled = steps["loss_scale"].dropna().ne(1).any()  # without a scaler it is 1, or missing
    for title, columns in (
        ("Loss (nats)", {"loss": "loss", "val_loss": "validation"}),
        ("Learning rate", {"lr": "learning rate"}),
        ("Loss scale", {"loss_scale": "loss scale"} if scaled else {}),
    ):
        lines = [_line(name, steps, column) for column, name in columns.items()]
        yield from _panel(title, lines, base=_BASES[title])


def _layer_panels(run: Run, note: Callable[[str], None]) -> Iterator[Panel]:
    for table, panels in _TABLES.items():
        if table in run.tables:
            try:
                yield from panels(run.table(table), run)
            except GradlabError as error:
                note(str(error))


def _gradients(rows: pd.DataFrame, _: Run) -> Iterator[Panel]:
    squares = gradient_courses(rows)
    squares["value"] **= 2
    for title, by in (("by layer", "layer"), ("by operation", "op")):
        sums = _put_together(squares, by, "sum")
        lines = _of_each(sums.assign(value=np.sqrt(sums["value"])), by)
        yield from _panel(f"Gradient norm {title} (L2)", lines)


def _updates(rows: pd.DataFrame, _: Run) -> Iterator[Panel]:
    largest = _put_together(update_courses(rows), "layer", "max")
    yield from _panel("Update over weight, the largest (RMS)", _of_each(largest, "layer"))


def _headroom(rows: pd.DataFrame, run: Run) -> Iterator[Panel]:
    tightest = tightest_by_layer(rows, run.table("steps", ["step", "lr"]))
    lines = _of_each(tightest.rename(columns={"headroom_bits": "value"}), "layer")
    yield from _panel("Least FP16 headroom (bits)", lines, base=None)


def _scores(rows: pd.DataFrame, _: Run) -> Iterator[Panel]:
    scores = score_courses(rows)
    largest = _put_together(scores, "layer", "max")
    bounds = "" if scores["bound"].eq("exact").all() else ", or an upper bound"
    yield from _panel(f"Largest attention score{bounds}", _of_each(largest, "layer"))


_TABLES: dict[str, Callable[[pd.DataFrame, Run], Iterator[Panel]]] = {
    "headroom": _headroom,
    "grad_norms": _gradients,
    "optimizer": _updates,
    "scores": _scores,
}
"""What is drawn of a table, in the order of a page."""


def _put_together(rows: pd.DataFrame, by: str, how: str) -> pd.DataFrame:
    """One row for each of `by` and step: what is lost in one of its rows is lost."""
    groups = rows.groupby([by, "step"], dropna=False, sort=False)
    found = groups.agg(value=("value", how), lost=("lost", "any")).reset_index()
    return found.assign(value=found["value"].mask(found["lost"]))


def _of_each(rows: pd.DataFrame, by: str) -> list[Line]:
    """A line for each op, or for each layer: the first on top, what is in none last."""
    if by == "op":
        return [_line(str(op), of, "value") for op, of in rows.groupby("op", sort=False)]
    layers = sorted({int(layer) for layer in rows["layer"].dropna()})
    lines = [
        _line(
            f"layer {layer}",
            rows[rows["layer"].eq(layer).fillna(False).astype(bool)],
            "value",
            place / max(len(layers) - 1, 1),
        )
        for place, layer in enumerate(layers)
    ]
    outside = rows[rows["layer"].isna()]
    return [*lines, *([] if outside.empty else [_line(OUTSIDE, outside, "value")])]


def _line(name: str, rows: pd.DataFrame, column: str, depth: float | None = None) -> Line:
    rows = rows.drop_duplicates("step", keep="last").sort_values("step")
    values = rows[column].to_numpy(np.float64, na_value=np.nan)
    if column == "val_loss":  # at some steps alone, which is no gap
        rows, values = rows[~np.isnan(values)], values[~np.isnan(values)]
    values = np.where(np.isfinite(values), values, np.nan)
    return Line(name, rows["step"].to_numpy(np.int64), values, depth)


def _panel(title: str, lines: Sequence[Line], *, base: int | None = 10) -> Iterator[Panel]:
    """The panel, if one of its lines has a value."""
    lines = [line for line in lines if len(line.steps)]
    known = np.concatenate([np.empty(0), *(line.values for line in lines)])
    known = known[np.isfinite(known)]
    if not len(known):
        return
    yield Panel(title, _scale(known, base), lines)


def _scale(known: NDArray[np.float64], base: int | None) -> Scale:
    if base is None or known.min() < 0 or not known.max():
        return "linear"
    if base == 2:
        return "log 2"
    return "log 10" if known.max() > _SPREAD * known[known > 0].min() else "linear"
