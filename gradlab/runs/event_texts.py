"""What happened at a step, in a sentence, from the rows of one table at that step."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Rows = Sequence[Mapping[str, Any]]
"""Rows of one table at one step."""


def overflow_text(rows: Rows) -> str:
    """The first overflow of a step, and how many there were: of rows of `overflows`."""
    first = min(rows, key=lambda row: row["order"])
    scale = first["loss_scale"]
    return (
        f"step {first['step']}: {first['producer'] or first['site']}: {first['kind']}, "
        f"{first['direction']}{_made_by(first)}; {len(rows)} "
        f"{'overflow' if len(rows) == 1 else 'overflows'} in the step, "
        f"{'' if scale is None else f'loss scale {scale:g}, '}"
        f"{'skipped' if first['skipped'] else 'not skipped'}"
    )


def fault_text(rows: Rows) -> str:
    """The first fault of a step, and how many there were: of rows of `faults`."""
    # The order of those that have one is that in which a step computes them.
    first = min(rows, key=lambda row: math.inf if row["order"] is None else row["order"])
    produced = f", made by {first['producer']}" if first["producer"] else ""
    more = f"; {len(rows)} in the step" if len(rows) > 1 else ""
    what = first["what"] if first["name"] == first["what"] else f"{first['what']} {first['name']}"
    return f"step {first['step']}: {what}: {first['kind']}{produced}{_made_by(first)}{more}"


EVENT_TEXTS: Mapping[str, Callable[[Rows], str]] = {
    "overflows": overflow_text,
    "faults": fault_text,
}
"""By table."""


def _made_by(row: Mapping[str, Any]) -> str:
    """The operation that an event began with, where it is known."""
    function, source = row.get("function"), row.get("source")
    place = f" at {source}" if source else ""
    return f", in {function}{place}" if function else ""
