"""Parameters, buffers and inputs that were not finite, and what a fault came from."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import pandas as pd

from gradlab.analyses.finding import Finding, counted, on_rank

_HELD = {"inf": "infinite", "nan": "NaN", "both": "infinite or NaN"}

BETWEEN = " (between its modules)"
"""How a producer's name ends that is the code around modules."""

Row: TypeAlias = Mapping[Any, Any]


def state_findings(
    faults: pd.DataFrame, steps: pd.DataFrame, grad_norms: pd.DataFrame | None, *, top: int
) -> list[Finding]:
    """Which parameters and buffers became not finite, when, and by whose doing.

    Args:
        faults: The run's `faults` table.
        steps: Its `steps`.
        grad_norms: Its `grad_norms`, or None: says whether the gradient was to blame where the
            probe could not look, as on a GPU.
        top: Rows of the tables.
    """
    parameters = faults[faults["what"].isin(["parameter", "update"]) & faults["kind"].isin(_HELD)]
    buffers = faults[(faults["what"] == "buffer") & faults["kind"].isin(_HELD)]
    found = []
    if len(parameters):
        found.append(
            Finding(
                "parameters not finite",
                _first_of(parameters, _maker(parameters, grad_norms)),
                _table(parameters, top),
            )
        )
    if len(buffers):
        skipped = set(steps.loc[steps["skipped"], "step"])
        step = buffers["step"].iloc[0]
        way = "a forward pass left it there"
        if step in skipped:
            way += ", and the scaler, which skipped that step, does not take it back"
        rest = "Evaluation reads it: set it anew, as with a norm's reset_running_stats()"
        sentence = _first_of(buffers, f"; {way}. {rest}")
        found.append(Finding("buffers not finite", sentence, _table(buffers, top)))
    return found


def input_findings(faults: pd.DataFrame) -> list[Finding]:
    """Which arguments of the model were not finite at steps where something then was not either."""
    inputs = faults[faults["what"] == "input"]
    if inputs.empty:
        return []
    first = inputs.to_dict("records")[0]
    more = inputs["step"].nunique() - 1
    later = f"; at {counted(more, 'later step')} too" if more else ""
    sentence = (
        f"The model's argument {first['name']} held {_entries(first)} at step {first['step']}"
        f"{on_rank(first)}: they were in the input before it came to the model{later}."
    )
    return [Finding("input not finite", sentence)]


def came_from(fault: Row) -> str:
    """What a site that was not finite had from elsewhere, to end a sentence with; maybe nothing."""
    producer = str(fault["producer"])
    for what in ("parameter", "buffer", "input"):
        if producer.endswith(f" ({what})"):
            name = producer.removesuffix(f" ({what})")
            when = "as the model was given it" if what == "input" else "before the pass"
            what = "argument" if what == "input" else what
            return f"; the {what} {name} was not finite already, {when}"
    if producer.endswith(BETWEEN):
        return f"; it arose in {producer.removesuffix(BETWEEN)}, between its modules"
    return ""


def _first_of(rows: pd.DataFrame, how: str) -> str:
    first = rows.to_dict("records")[0]
    names = rows["name"].nunique()
    after = {"update": "the optimizer's update of step", "parameter": "before the pass of step"}
    since = after.get(first["what"], "step")
    sentence = (
        f"{first['name']}: {_entries(first)} since {since} {first['step']}{on_rank(first)}{how}"
    )
    noun = "buffer" if first["what"] == "buffer" else "parameter"
    return f"{sentence}; {counted(names, noun)} in all." if names > 1 else f"{sentence}."


def _maker(rows: pd.DataFrame, grad_norms: pd.DataFrame | None) -> str:
    """Whose doing the first update was, and what helps."""
    first = rows.to_dict("records")[0]
    producer = str(first["producer"])
    if first["what"] != "update":
        unseen = producer == "a step that was not looked at"
        return f"; {producer} made it so" if unseen else "; no update of the optimizer made it so"
    if producer.endswith(" gradient") or _lost(first, grad_norms):
        return ", as its gradient was not finite"
    if "(ε" in producer:
        name, _, epsilon = producer.partition(" (")
        return (
            f", whose gradient was finite. {name}'s {epsilon.removesuffix(')')}, so an entry "
            "without a gradient gets 0/0: an ε that the type holds (1e-4 in FP16), or FP32 copies "
            "of the weights, keep it finite"
        )
    return f", whose gradient was finite ({producer})"


def _lost(first: Row, grad_norms: pd.DataFrame | None) -> bool:
    if grad_norms is None:
        return False
    there = (grad_norms["step"] == first["step"]) & (grad_norms["param"] == first["name"])
    return bool((grad_norms.loc[there, "nonfinite"] > 0).any())


def _table(rows: pd.DataFrame, top: int) -> pd.DataFrame | None:
    if len(rows) < 2:
        return None
    columns = ["name", "step", "kind", "count", "numel"]
    table: pd.DataFrame = rows.head(top)[columns].reset_index(drop=True)
    return table


def _entries(row: Row) -> str:
    held = _HELD[row["kind"]]
    count: int | None = int(row["count"]) if pd.notna(row["count"]) else None
    return f"{held} entries" if count is None else f"{count} of {row['numel']} entries {held}"
