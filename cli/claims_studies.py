"""The studies behind the paper's claims: the command of each, its tables and its figures."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gradlab.cli.ablate import ablate
from gradlab.cli.command import command_of
from gradlab.cli.command_options import FiguresOptions, GradNormsOptions, StabilityOptions
from gradlab.cli.drawings import (
    Drawing,
    draw_gradients,
    draw_lambda,
    draw_relative,
    draw_scales,
    stability_drawings,
    window_length,
)
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

_NO_CHOICE = FiguresOptions(runs=[])

FIGURE_2 = ("pre-ln", "normformer", "normformer-resscale")
"""The ablation's rows that figure 2 shows, as in the paper."""


@dataclass(frozen=True)
class ClaimStudy:
    """A study that some of the claims need.

    Attributes:
        name: Its folder in that of the claims.
        command: The command that makes it,
        run: the command as a function,
        options: and what it is asked for.
        tables: The tables that the claims are read from, of the study's folder and its runs.
        draw: Its figures, likewise.
    """

    name: str
    command: str
    run: Callable[..., None]
    options: StudyOptions
    tables: "Callable[[Path, Sequence[Run]], dict[str, pd.DataFrame]]"
    draw: "Callable[[Path, Sequence[Run]], Iterator[Drawing]]"

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

    return mismatch_tables(runs, length=window_length(runs, _NO_CHOICE))


def _draw_gradients(_: Path, runs: "Sequence[Run]") -> Iterator[Drawing]:
    return draw_gradients(runs, _NO_CHOICE)


def _scale_tables(_: Path, runs: "Sequence[Run]") -> "dict[str, pd.DataFrame]":
    from gradlab.analyses.claim_tables import scale_tables

    return scale_tables(runs, length=window_length(runs, _NO_CHOICE))


def _draw_scales(_: Path, runs: "Sequence[Run]") -> Iterator[Drawing]:
    yield from draw_scales(runs, _NO_CHOICE)
    yield from draw_lambda(runs, _NO_CHOICE)
    for drawing in draw_relative(runs, _NO_CHOICE):
        if drawing.name.endswith("late"):  # the window that the paper's figure shows
            yield drawing


def _stability_tables(folder: Path, _: "Sequence[Run]") -> "dict[str, pd.DataFrame]":
    from gradlab.analyses.stability_table import read_stability

    return {"stability": read_stability(folder)}


def _draw_stability(folder: Path, _: "Sequence[Run]") -> Iterator[Drawing]:
    yield next(stability_drawings(folder))  # figure 5; the others are in the study's folder


def _loss_tables(folder: Path, runs: "Sequence[Run]") -> "dict[str, pd.DataFrame]":
    from gradlab.analyses.claim_tables import loss_tables

    return loss_tables(runs, _budget(folder, runs))


def _draw_losses(folder: Path, runs: "Sequence[Run]") -> Iterator[Drawing]:
    """Figure 2 in the time of the steps alone."""
    from gradlab.analyses.claim_tables import timed_curves
    from gradlab.analyses.compute import compute_saved, summarise_saved
    from gradlab.figures.compute import perplexity_by_compute
    from gradlab.figures.style import figure_of
    from gradlab.models.presets import BASELINE

    shown = sorted(
        (run for run in runs if run.config.arch in FIGURE_2),
        key=lambda run: FIGURE_2.index(run.config.arch),
    )
    curves = timed_curves(shown, _budget(folder, runs))
    saved = compute_saved(curves, baseline=BASELINE, compute="seconds")
    figure = figure_of(perplexity_by_compute(curves, baseline=BASELINE, compute="seconds"))
    yield Drawing("perplexity", figure, summarise_saved(saved))


def _budget(folder: Path, runs: "Sequence[Run]") -> float:
    """Seconds of the baseline's steps, as one was timed before the study: those of every row."""
    from gradlab.cli.equal_time import NOTE
    from gradlab.models.presets import BASELINE
    from gradlab.runs.study import load_study

    second = float(load_study(folder).notes[NOTE][BASELINE]["median"])
    return second * max(run.config.steps for run in runs if run.config.arch == BASELINE)


STUDIES = {
    study.name: study
    for study in (
        ClaimStudy(
            "gradients",
            "grad-norms",
            grad_norms,
            GradNormsOptions(),
            _gradient_tables,
            _draw_gradients,
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
            _draw_scales,
        ),
        ClaimStudy(
            "stability",
            "run-stability",
            run_stability,
            StabilityOptions(lr_step=[2e-4]),
            _stability_tables,
            _draw_stability,
        ),
        ClaimStudy(
            "ablation",
            "ablate",
            ablate,
            AblateOptions(val_every=25),
            _loss_tables,
            _draw_losses,
        ),
    )
}
"""The studies, in the order in which they are made. Together about half an hour on two cores."""
