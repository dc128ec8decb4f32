"""What a study's own table holds: a row for each run that has ended."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from gradlab.runs.csv_files import write_rows

if TYPE_CHECKING:
    from gradlab.runs.reader import Run
    from gradlab.runs.verdict import Verdict


Value: TypeAlias = "Callable[[Run, Verdict], Any]"
"""What a column says of a run that has ended."""


@dataclass(frozen=True)
class StudyTable:
    """A study's table.

    Attributes:
        file: Its name in the study's folder.
        values: Its columns, in order.
    """

    file: str
    values: Mapping[str, Value]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns' names."""
        return tuple(self.values)

    def row(self, run: "Run", verdict: "Verdict") -> dict[str, Any]:
        """The values of a run by column."""
        return {column: value(run, verdict) for column, value in self.values.items()}

    def write(self, out: Path, runs: "Iterable[Run]") -> None:
        """Write the rows of the runs that have ended, replacing what is there."""
        ended = (self.row(run, run.verdict) for run in runs if run.verdict is not None)
        write_rows(out / self.file, self.columns, ended)


_RUN: dict[str, Value] = {
    "size": lambda run, _: run.config.size_label,
    "params": lambda run, _: run.info["params"],
    "arch": lambda run, _: run.config.arch,
    "seed": lambda run, _: run.config.seed,
}
_END: dict[str, Value] = {
    "reason": lambda _, verdict: verdict.reason,
    "step": lambda _, verdict: verdict.step,
}

STABILITY = StudyTable(
    "stability.csv",
    {
        **_RUN,
        "lr_step": lambda run, _: run.config.schedule.lr_step,
        **_END,
        "lr": lambda _, verdict: verdict.lr,
        "censored": lambda _, verdict: verdict.censored,
        "first_overflow": lambda _, verdict: verdict.first_overflow,
        "lr_min_loss": lambda _, verdict: verdict.lr_min_loss,
        "lr_collapse": lambda _, verdict: verdict.lr_collapse,
    },
)
"""Of the stability test: where each run broke, and why."""

RUNS = StudyTable(
    "runs.csv",
    {
        **_RUN,
        "lr": lambda run, _: run.config.schedule.lr,
        "warmup": lambda run, _: run.config.schedule.warmup_steps,
        "steps": lambda run, _: run.config.steps,
        **_END,
    },
)
"""Of runs at a set learning rate: what each was asked to do, and how it ended."""

DEPTH_RUNS = StudyTable(
    RUNS.file, {"depth": lambda run, _: run.config.model.n_layers, **RUNS.values}
)
"""The same where the depth varies."""

LIMIT_RUNS = StudyTable(
    RUNS.file,
    {
        "schedule": lambda run, _: run.config.schedule.kind,
        **RUNS.values,
        "lr_break": lambda _, verdict: verdict.lr if verdict.broke else None,
    },
)
"""The same where ramps stand beside constant rates: lr_break is where a run broke."""

VARIANT_RUNS = StudyTable(RUNS.file, {"variant": lambda run, _: run.config.variant, **RUNS.values})
"""The same where hyperparameters vary by name."""
