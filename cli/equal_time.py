"""Equal compute as equal time on the device: how many steps each row of an ablation takes."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from gradlab.cli.loss_options import AblateOptions
from gradlab.errors import GradlabError

if TYPE_CHECKING:
    from gradlab.training.step_times import StepTime

NOTE = "step_times"
"""Where a study's file keeps the times, by architecture."""


@dataclass(frozen=True)
class RowTime:
    """The time of a row's training step, and as many steps as fit in the baseline's time."""

    step: "StepTime"
    steps: int

    def as_json(self) -> dict[str, float]:
        """Seconds of a step (median, low and high quartile), and the steps."""
        return {**asdict(self.step), "steps": self.steps}


def row_times(options: AblateOptions, out: Path) -> dict[str, RowTime]:
    """The time of each row's step, by architecture: the study's own, or measured now.

    Args:
        options: Of the command.
        out: The study's folder.

    Raises:
        GradlabError: An option, the corpus, the device or the folder cannot be used; the study in
            the folder was not begun at equal time, or without one of these rows.
    """
    from gradlab.cli.plan import check_jobs
    from gradlab.cli.plan_losses import plan_timed, steps_in_time
    from gradlab.training.device import resolve_device
    from gradlab.training.step_times import step_times
    from gradlab.training.study import check_folder

    configs = plan_timed(options)
    check_jobs(options.jobs, resolve_device(options.device).type)
    rows = [config.arch for config in configs]
    if check_folder(out, resume=options.resume):
        found = _kept_times(out, rows)
    else:
        typer.echo(f"Timing a training step of {len(rows)} architectures.", err=True)
        found = dict(zip(rows, step_times(configs), strict=True))
    # Of another number of steps than before, other runs follow, which the study then refuses.
    steps = steps_in_time({arch: time.median for arch, time in found.items()}, options.steps)
    return {arch: RowTime(found[arch], steps[arch]) for arch in rows}


def _kept_times(out: Path, rows: Sequence[str]) -> "dict[str, StepTime]":
    from gradlab.training.step_times import StepTime
    from gradlab.training.study import study_notes

    kept = study_notes(out).get(NOTE)
    if kept is None:
        raise GradlabError(
            f"{out} holds a study that was not begun at equal time: give the options it was "
            "started with, or choose another --out."
        )
    try:
        times = {
            arch: StepTime(*(float(time[name]) for name in ("median", "low", "high")))
            for arch, time in kept.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise GradlabError(
            f"{out} holds step times that cannot be read ({error}): choose another --out."
        ) from error
    for arch in rows:
        if arch not in times:
            raise GradlabError(
                f"{out} was begun without {arch}, whose step was not timed beside the others': "
                "choose another --out."
            )
    return times
