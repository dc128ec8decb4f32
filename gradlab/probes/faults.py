"""Rows of `faults`: what was not as it should be at a step, overflows in FP16 aside."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import torch

from gradlab.probes.probe import Columns
from gradlab.probes.roles import role

What = Literal["activation", "gradient", "parameter", "buffer", "update", "loss", "input"]
NotFinite = Literal["inf", "nan", "both"]
Kind = Literal["inf", "nan", "both", "zero", "absent", "changed", "kept", "unheld"]


@dataclass(frozen=True)
class Fault:
    """One thing at one step.

    Attributes:
        step: The step.
        what: What kind of tensor it was.
        name: Of the site, parameter or buffer.
        kind: What it held: entries that are not finite, zeros alone; `absent`: it never came;
            `changed`: the loop changed it between two passes of the step; `kept`: nobody had
            cleared it since the step before; `unheld`: no optimizer trains what it is of.
        rank: Of the process that saw it.
        order: Position in the step's execution, among overflows and faults.
        direction: `forward` or `backward`.
        dtype: As `float32`.
        count: Entries concerned; None where they were not counted. Of a gradient that is absent, 0
            at the step at which the first one came after all.
        numel: All of its entries.
        producer: Where it arose, if that is known.
        function: The operation that made it.
        source: The user's line that called that, as `model.py:12`.
    """

    step: int
    what: What
    name: str
    kind: Kind
    rank: int = 0
    order: int | None = None
    direction: str | None = None
    dtype: str | None = None
    count: int | None = None
    numel: int | None = None
    producer: str | None = None
    function: str | None = None
    source: str | None = None


def dtype_name(dtype: torch.dtype) -> str:
    """As tables have it: `float16`."""
    return str(dtype).removeprefix("torch.")


def kind_of(infinite: float, nan: float) -> NotFinite:
    """What a tensor with so many infinite entries and NaNs holds, one of them at least."""
    return "both" if infinite and nan else "nan" if nan else "inf"


def fault_rows(faults: Sequence[Fault]) -> Columns:
    """The faults as rows of their table."""
    places = [role(fault.name) for fault in faults]
    columns = {f.name: [getattr(fault, f.name) for fault in faults] for f in fields(Fault)}
    return {**columns, "layer": [layer for layer, _ in places], "op": [op for _, op in places]}
