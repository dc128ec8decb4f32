"""What an offline run of wandb has recorded, read from its file."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

_HEADER, _BLOCK = 7, 32768
"""The file is a LevelDB log: a header, then blocks of records, each after 7 bytes about it."""


def histories(folder: Path) -> dict[str, list[float]]:
    """Each logged number, step by step; of a histogram its largest magnitude.

    A step at which a key that was watched is missing is NaN: wandb leaves out a histogram that
    would hold no finite value.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    steps: list[dict[str, float]] = []
    for data in _records(next(folder.glob("**/*.wandb")).read_bytes()):
        record = Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            steps.append({(i.key or "/".join(i.nested_key)): _size(i.value_json) for i in items})
    keys = {key for step in steps for key in step if key == "loss" or key.startswith("gradients/")}
    series = {key: [step.get(key, math.nan) for step in steps] for key in sorted(keys)}
    return {key.removeprefix("gradients/"): values for key, values in series.items()}


def _size(text: str) -> float:
    value = json.loads(text)
    if isinstance(value, dict):
        return max(map(abs, value.get("bins", [0.0])))
    return float(value) if isinstance(value, int | float | str) else math.nan


def _records(data: bytes) -> Iterator[bytes]:
    place, parts = _HEADER, b""
    while place + _HEADER <= len(data):
        left = _BLOCK - place % _BLOCK
        if left < _HEADER:
            place += left
            continue
        length = int.from_bytes(data[place + 4 : place + 6], "little")
        kind = data[place + 6]  # 1 whole, 2 first, 3 middle, 4 last
        parts += data[place + _HEADER : place + _HEADER + length]
        place += _HEADER + length
        if kind in (1, 4):
            yield parts
            parts = b""
