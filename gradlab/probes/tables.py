"""Rows of several steps put together, table by table."""

from collections.abc import Mapping
from typing import Any

from gradlab.probes.engine.window import RecordedStep
from gradlab.probes.probe import Columns

Tables = dict[str, dict[str, list[Any]]]


def append(tables: Tables, rows: Mapping[str, Columns]) -> None:
    """Add rows to the tables, in place."""
    for name, columns in rows.items():
        table = tables.setdefault(name, {column: [] for column in columns})
        for column, values in columns.items():
            table[column].extend(values)


def step_rows(recorded: RecordedStep, updates: int) -> Columns:
    """The row in `steps` of a loop that gradlab did not write.

    Args:
        recorded: The step.
        updates: Real optimizer updates so far, this one included.
    """
    step = recorded.step
    row = {
        "step": step.step,
        "update": updates,
        "lr": recorded.lr,
        "loss": recorded.loss,
        "val_loss": None,
        "loss_scale": step.loss_scale,
        "skipped": step.skipped,
        "grad_norm": recorded.grad_norm,
        "tokens": None,
        "seconds": recorded.seconds,
    }
    return {name: [value] for name, value in row.items()}
