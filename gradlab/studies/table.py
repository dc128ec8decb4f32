"""What a study's own table holds: a row for each run that has ended."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradlab.runs.csv_files import write_rows

if TYPE_CHECKING:
    from gradlab.runs.reader import Run
    from gradlab.runs.verdict import Verdict


@dataclass(frozen=True)
class StudyTable:
    """A study's table.

    Attributes:
        file: Its name in the study's folder.
        columns: Its columns, in order.
        row: The values of a run by column, from the run and its verdict.
    """

    file: str
    columns: tuple[str, ...]
    row: "Callable[[Run, Verdict], Mapping[str, Any]]"

    def write(self, out: Path, runs: "Iterable[Run]") -> None:
        """Write the rows of the runs that have ended, replacing what is there."""
        ended = (self.row(run, run.verdict) for run in runs if run.verdict is not None)
        write_rows(out / self.file, self.columns, ended)


def _identity(run: "Run") -> dict[str, Any]:
    config = run.config
    return {
        "size": config.size_label,
        "params": run.info["params"],
        "arch": config.arch,
        "seed": config.seed,
    }


def _stability_row(run: "Run", verdict: "Verdict") -> dict[str, Any]:
    return {
        **_identity(run),
        "lr_step": run.config.schedule.lr_step,
        "reason": verdict.reason,
        "step": verdict.step,
        "lr": verdict.lr,
        "censored": verdict.censored,
        "first_overflow": verdict.first_overflow,
        "lr_min_loss": verdict.lr_min_loss,
        "lr_collapse": verdict.lr_collapse,
    }


STABILITY = StudyTable(
    "stability.csv",
    (
        "size",
        "params",
        "arch",
        "seed",
        "lr_step",
        "reason",
        "step",
        "lr",
        "censored",
        "first_overflow",
        "lr_min_loss",
        "lr_collapse",
    ),
    _stability_row,
)
"""Of the stability test: where each run broke, and why."""


def _run_row(run: "Run", verdict: "Verdict") -> dict[str, Any]:
    config = run.config
    return {
        **_identity(run),
        "lr": config.schedule.lr,
        "warmup": config.schedule.warmup_steps,
        "steps": config.steps,
        "reason": verdict.reason,
        "step": verdict.step,
    }


RUNS = StudyTable(
    "runs.csv",
    ("size", "params", "arch", "seed", "lr", "warmup", "steps", "reason", "step"),
    _run_row,
)
"""Of runs at a set learning rate: what each was asked to do, and how it ended."""


def _limit_row(run: "Run", verdict: "Verdict") -> dict[str, Any]:
    row = {"schedule": run.config.schedule.kind, **_run_row(run, verdict)}
    return row | {"lr_break": verdict.lr if verdict.broke else None}


def _depth_row(run: "Run", verdict: "Verdict") -> dict[str, Any]:
    return {"depth": run.config.model.n_layers, **_run_row(run, verdict)}


DEPTH_RUNS = StudyTable(RUNS.file, ("depth", *RUNS.columns), _depth_row)
"""The same where the depth varies."""


LIMIT_RUNS = StudyTable(RUNS.file, ("schedule", *RUNS.columns, "lr_break"), _limit_row)
"""The same where ramps stand beside constant rates: lr_break is where a run broke."""


def _variant_row(run: "Run", verdict: "Verdict") -> dict[str, Any]:
    return {"variant": run.config.variant, **_run_row(run, verdict)}


VARIANT_RUNS = StudyTable(RUNS.file, ("variant", *RUNS.columns), _variant_row)
"""The same where hyperparameters vary by name."""
