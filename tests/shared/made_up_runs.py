"""Runs that nobody trained: their configs, and rows whose columns are the usual but for a few."""

import math
from pathlib import Path
from typing import Any

from gradlab.config import RunConfig, ScheduleConfig
from gradlab.data.corpus import load_corpus
from gradlab.models.presets import model_config
from gradlab.runs.memory import MemoryWriter
from gradlab.runs.schema import TABLES
from gradlab.runs.writer import RunWriter

STEPS = range(8)

_USUAL = {
    **{"loss": 1.0, "grad_norm": 1.0, "seconds": 1.0, "update": 0, "tokens": 1, "skipped": False},
    **{"op": "fc2", "numel": 10, "grad_l1": 1.0, "grad_l2": 1.0, "grad_max_abs": 1.0},
    **{"direction": "forward", "dtype": "float16", "max_abs": 1.0, "headroom_bits": 1.0},
    **{"nonfinite": 0, "underflow_frac": 0.0, "index": 0, "bound": "exact"},
    **{"order": 0, "kind": "inf", "count": 1},
}


def nano(arch: str = "pre-ln", seed: int = 0, **fields: Any) -> RunConfig:
    """Of a run of nine steps at one learning rate, or as the fields have it."""
    usual = {"model": model_config(arch, "nano"), "schedule": ScheduleConfig(lr=1e-3), "steps": 9}
    return RunConfig(**{"arch": arch, "size": "nano", "seed": seed, **usual, **fields})


def begin(folder: Path, config: RunConfig) -> RunWriter:
    """A run of a study, which names its corpus."""
    corpus = load_corpus(config.data, seq_len=1)
    info = {"params": 9, "corpus": {"name": corpus.name, "sha256": corpus.sha256}}
    return RunWriter(folder, config, info)


def write_rows(writer: MemoryWriter | RunWriter, table: str, **given: Any) -> None:
    """Columns of a table: one value stands in all rows; others have the usual, or none."""
    columns = {name: given.get(name, _USUAL.get(name)) for name in TABLES[table].names}
    is_one = (str, int, float, type(None))
    count = max([len(c) for c in columns.values() if not isinstance(c, is_one)], default=1)
    filled = {name: [c] * count if isinstance(c, is_one) else c for name, c in columns.items()}
    writer.write(table, filled)


def write_steps(writer: MemoryWriter | RunWriter, config: RunConfig, loss: float = 2.0) -> None:
    """The table `steps`, of eight."""
    rates, seconds = [config.lr(step) for step in STEPS], [float(step) for step in STEPS]
    write_rows(
        writer, "steps", step=STEPS, update=STEPS, lr=rates, loss=loss, grad_norm=None,
        tokens=STEPS, seconds=seconds,
    )  # fmt: skip


def write_headroom(writer: MemoryWriter | RunWriter) -> None:
    """The table `headroom`, of two layers: layer 0 loses it at the last step."""
    rows = [(step, layer) for step in STEPS for layer in range(2)]
    write_rows(
        writer,
        "headroom",
        step=[step for step, _ in rows],
        site=[f"blocks.{layer}.attention.scores" for _, layer in rows],
        layer=[layer for _, layer in rows],
        op="scores",
        headroom_bits=[-math.inf if step == 7 and not n else 9.0 - step for step, n in rows],
    )
