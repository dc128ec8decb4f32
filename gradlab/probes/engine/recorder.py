"""From the steps that a follower has seen to rows of a run's tables."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeAlias

from gradlab.forecast import Forecast, Forecaster
from gradlab.probes.engine.window import RecordedStep
from gradlab.probes.probe import Columns, Probe
from gradlab.runs.schema import own_table

Write: TypeAlias = Callable[[str, Columns], None]
"""Appends rows to a table."""


class Recorder:
    """Makes rows of steps, in their order, and keeps them until they are written.

    Args:
        write: Where rows go.

    Attributes:
        unwritten: Steps whose rows are not written yet.
        updates: Of the optimizer so far.
        forecast: The overflow foreseen at the last step with rows of headroom, if there was one.
    """

    def __init__(self, write: Write) -> None:
        self._write = write
        self.updates = 0
        self.forecast: Forecast | None = None
        self._forecaster = Forecaster()
        self._tables: dict[str, dict[str, list[Any]]] = {}
        self.unwritten = 0

    def state(self) -> dict[str, Any]:
        """What goes into the rows to come, for `restore`; JSON can hold it."""
        last = self.forecast and asdict(self.forecast)
        return {"updates": self.updates, "forecast": last, "trend": self._forecaster.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave, and JSON gave back."""
        self.updates = state["updates"]
        self.forecast = Forecast(**state["forecast"]) if state["forecast"] else None
        self._forecaster.restore(state["trend"])

    def take(
        self, recorded: RecordedStep, *, val_loss: float | None = None, tokens: int | None = None
    ) -> None:
        """Take in the next step.

        Args:
            recorded: The step.
            val_loss: Of a validation after it, where the loop is known to have made one.
            tokens: Seen so far, where that is known.
        """
        self.unwritten += 1
        self.updates += recorded.updated
        row = {
            "step": recorded.step.step,
            "update": self.updates,
            "lr": recorded.lr,
            "loss": recorded.loss,
            "val_loss": val_loss,
            "loss_scale": recorded.step.loss_scale,
            "skipped": recorded.step.skipped,
            "grad_norm": recorded.grad_norm,
            "tokens": tokens,
            "seconds": recorded.seconds,
        }
        self.add({"steps": {name: [value] for name, value in row.items()}})
        for tables in recorded.tables:
            self.add(tables)
        if any("headroom" in tables for tables in recorded.tables):
            self._foresee(recorded)

    def _foresee(self, recorded: RecordedStep) -> None:
        self.forecast = self._forecaster.take(recorded.step.step, recorded.tables)
        if self.forecast is not None:
            row = {"step": recorded.step.step} | asdict(self.forecast)
            self.add({"forecasts": {name: [value] for name, value in row.items()}})

    def add(self, tables: Mapping[str, Columns]) -> None:
        """Take in more rows, by table."""
        for name, columns in tables.items():
            table = self._tables.setdefault(name, {column: [] for column in columns})
            for column, values in columns.items():
                table[column].extend(values)

    def flush(self) -> None:
        """Write all rows."""
        tables, self._tables = self._tables, {}
        self.unwritten = 0
        for name, columns in tables.items():
            self._write(name, columns)


def recorded_of(probes: Sequence[Probe]) -> dict[str, Any]:
    """What `run.json` says of probes: who they are, and which tables there are.

    Raises:
        GradlabError: One has columns that no table of one's own can have.
    """
    tables = ["steps", *(table for probe in probes for table in probe.tables()), "faults"]
    if "headroom" in tables:
        tables.append("forecasts")
    return {
        "probes": [type(probe).__name__ for probe in probes],
        "tables": list(dict.fromkeys(tables)),
        "own_tables": {p.table: own_table(p.table, p.columns) for p in probes if p.columns},
    }
