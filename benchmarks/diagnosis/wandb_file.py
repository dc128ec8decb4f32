"""What an offline run of wandb has recorded, read from its file."""

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

_HEADER, _BLOCK = 7, 32768
"""The file is a LevelDB log: a header, then blocks of records, each after 7 bytes about it."""

PATIENCE = 20.0
"""Seconds for the file to be complete."""


def histories(folder: Path) -> dict[str, list[float]]:
    """Each logged number, step by step; of a histogram its largest magnitude.

    A step at which a key that was watched is missing is NaN: wandb leaves out a histogram that
    would hold no finite value.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    records: list[Record] = []
    end = time.monotonic() + PATIENCE
    while not any(record.HasField("exit") for record in records) and time.monotonic() < end:
        time.sleep(0.1)  # wandb's service may still be writing
        data = next(folder.glob("**/*.wandb")).read_bytes()
        records = [Record.FromString(one) for one in _records(data)]
    steps: list[dict[str, float]] = []
    for record in records:
        if record.HasField("history"):
            items = {tuple(item.nested_key): item.value_json for item in record.history.item}
            steps.append(dict(_numbers(items)))
    names = sorted({name for step in steps for name in step})
    return {name: [step.get(name, math.nan) for step in steps] for name in names}


def _numbers(items: dict[tuple[str, ...], str]) -> Iterator[tuple[str, float]]:
    for key, value in items.items():
        if key == ("loss",):
            yield "loss", float(json.loads(value))
        elif key[-1] == "bins":
            yield key[0].removeprefix("gradients/"), max(map(abs, json.loads(value)))


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
