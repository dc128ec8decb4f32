"""Steps on their way from one process to another: JSON, which holds values and can run nothing.

Whoever reaches the port of torch's store can write there, so what is read is checked, and what is
not as `to_bytes` makes it is refused.
"""

import json
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch

from gradlab.probes.engine.window import HostStep
from gradlab.probes.faults import dtype_name
from gradlab.probes.sites import Place

_DTYPE, _PLACE = "!dtype", "!place"
"""What stands in the text for values that JSON has not: objects with this one name."""

_SCALAR = (str, int, float, type(None))


def to_bytes(steps: Sequence[HostStep]) -> bytes:
    """The steps as text.

    Raises:
        TypeError: A probe's labels hold something else than numbers, text, dtypes and places.
    """
    rows = [{name: getattr(step, name) for name in _FIELDS} for step in steps]
    return json.dumps(rows, default=_plain).encode()


def from_bytes(data: bytes, *, rank: int) -> list[HostStep]:
    """The steps again: one or more, in rising order.

    Args:
        data: From `to_bytes`, or from somebody else.
        rank: The process that left it.

    Raises:
        ValueError: This is nothing that `to_bytes` makes.
    """
    try:
        steps = [_step(row, rank) for row in json.loads(data, object_hook=_known)]
    except (TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"no steps: {error}") from error
    numbers = [step.step for step in steps]
    if not numbers or numbers != sorted(set(numbers)):
        raise ValueError("no steps in rising order")
    return steps


def _plain(value: Any) -> dict[str, Any]:
    if isinstance(value, torch.dtype):
        return {_DTYPE: dtype_name(value)}
    if isinstance(value, Place):
        return {_PLACE: [getattr(value, field.name) for field in fields(Place)]}
    raise TypeError(f"{type(value).__name__} is no number and no text")


def _known(item: dict[str, Any]) -> Any:
    """A JSON object as what it stands for: itself, unless it is one of `_plain`'s."""
    if item.keys() == {_DTYPE}:
        dtype = getattr(torch, item[_DTYPE])
        if not isinstance(dtype, torch.dtype):
            raise ValueError("no dtype")
        return dtype
    if item.keys() == {_PLACE}:
        values = item[_PLACE]
        if not all(isinstance(value, (*_SCALAR, torch.dtype)) for value in values):
            raise ValueError("no place")
        return Place(*values)
    return item


def _step(row: Any, rank: int) -> HostStep:
    if row.keys() != _FIELDS.keys() or not all(isinstance(row[n], t) for n, t in _FIELDS.items()):
        raise ValueError("no step")
    if not all(isinstance(loss, float | int) for loss in row["losses"]):
        raise ValueError("no losses")
    readings = {int(index): _columns(columns) for index, columns in row["readings"].items()}
    return HostStep(
        **{**row, "losses": tuple(row["losses"]), "readings": readings},
        rank=rank,
    )


def _columns(columns: Any) -> dict[str, list[Any]]:
    whole = {str(name): list(column) for name, column in columns.items()}
    if not all(isinstance(v, (*_SCALAR, Place, torch.dtype)) for c in whole.values() for v in c):
        raise ValueError("a column of something else than numbers, text and places")
    return whole


_FIELDS: dict[str, Any] = {
    "step": int,
    "updated": bool,
    "lr": float | int | None,
    "seconds": float | int,
    "loss_scale": float | int,
    "skipped": bool,
    "losses": list | tuple,
    "readings": dict,
    "event": bool,
}
"""What is sent of a step, and of which type it is."""
