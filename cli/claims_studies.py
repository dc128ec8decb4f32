"""The studies behind the paper's claims: the command of each, and its tables."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gradlab.cli.ablate import ablate
from gradlab.cli.command import command_of
from gradlab.cli.command_options import GradNormsOptions, StabilityOptions
from gradlab.cli.grad_norms import grad_norms
from gradlab.cli.loss_options import AblateOptions
from gradlab.cli.options import StudyOptions
from gradlab.cli.run_stability import run_stability
from gradlab.errors import GradlabError
from gradlab.runs.study import find_study

if TYPE_CHECKING:
    import pandas as pd

    from gradlab.analyses.claim import StudyTables
    from gradlab.runs.reader import Run


@dataclass(frozen=True)
class ClaimStudy:
    """A study that some of the claims need.

    Attributes:
        name: Its folder in that of the claims.
        command: The command that makes it,
        run: the command as a function,
        options: and what it is asked for.
        tables: The tables that the claims are read from, of the study's folder and its runs.
    """

    name: str
    command: str
    run: Callable[..., None]
    options: StudyOptions
    tables: "Callable[[Path, Sequence[Run]], dict[str, pd.DataFrame]]"

    def train(self, out: Path, *, seeds: int, jobs: int | None, resume: bool) -> None:
        """Have the command make the study, or go on with it."""
        given = {"out": out / self.name, "seeds": seeds, "jobs": jobs, "resume": resume}
        self.run(**{**vars(self.options), **given})

    def line(self, out: Path, *, seeds: int) -> str:
        """What one types to make it: as the study was begun, if it was."""
        study = find_study(out / self.name)
        command = (study and study.command) or command_of(
            self.command, replace(self.options, seeds=seeds)
        )
        return f"{command.line} --out {out / self.name}"

    def runs(self, out: Path) -> "list[Run]":
        """Its runs that have been begun, in its order."""
        study = find_study(out / self.name)
        return study.runs if study else []

    def planned(self, out: Path) -> list[str]:
        """The names of its runs; none before it is begun."""
        study = find_study(out / self.name)
        return study.names if study else []

    def read(self, out: Path) -> "StudyTables":
        """What it has for the claims: nothing before all its runs are over."""
        from gradlab.analyses.claim import StudyTables

        planned, runs = self.planned(out), self.runs(out)
        over = [run for run in runs if run.status in ("finished", "error")]
        size = runs[0].config.size if runs else ""
        if not planned:
            return StudyTables(size, missing="study not begun")
        if len(over) < len(planned):
            return StudyTables(size, missing=f"{len(over)} of {len(planned)} runs so far")
        try:
            return StudyTables(size, self.tables(out / self.name, over))
        except GradlabError as error:
            return StudyTables(size, missing=f"no number: {error}")


def _gradient_tables(_: Path, runs: "Sequence[Run]") -> "dict[str, pd.DataFrame]":
    from gradlab.analyses.claim_tables import mismatch_tables
    from gradlab.analyses.gradient_study import window_length

    return mismatch_tables(runs, length=window_length(runs))


def _scale_tables(_: Path, runs: "Sequence[Run]") -> "dict[str, pd.DataFrame]":
    from gradlab.analyses.claim_tables import scale_tables
    from gradlab.analyses.gradient_study import window_length

    return scale_tables(runs, length=window_length(runs))


def _stability_tables(folder: Path, _: "Sequence[Run]") -> "dict[str, pd.DataFrame]":
    from gradlab.analyses.stability_table import read_stability

    return {"stability": read_stability(folder)}


def _loss_tables(folder: Path, runs: "Sequence[Run]") -> "dict[str, pd.DataFrame]":
    from gradlab.analyses.claim_tables import loss_tables, time_budget

    return loss_tables(runs, time_budget(folder, runs))


STUDIES = {
    study.name: study
    for study in (
        ClaimStudy(
            "gradients",
            "grad-norms",
            grad_norms,
            GradNormsOptions(),
            _gradient_tables,
        ),
        ClaimStudy(
            "scales",
            "grad-norms",
            grad_norms,
            GradNormsOptions(
                size="nano",
                arch=["pre-ln", "normformer", "normformer-resscale"],
                steps=1001,
                warmup=100,
                probes=["scales"],
                every=2,
            ),
            _scale_tables,
        ),
        ClaimStudy(
            "stability",
            "run-stability",
            run_stability,
            StabilityOptions(lr_step=[2e-4]),
            _stability_tables,
        ),
        ClaimStudy(
            "ablation",
            "ablate",
            ablate,
            AblateOptions(val_every=25),
            _loss_tables,
        ),
    )
}
"""The studies, in the order in which they are made. Together about half an hour on two cores."""
