"""Equal compute as equal time on the device: how many steps each row of a study takes."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from gradlab.cli.loss_options import EqualOptions
from gradlab.config import BASE_VARIANT, row_of
from gradlab.errors import GradlabError

if TYPE_CHECKING:
    import pandas as pd

    from gradlab.config import RunConfig
    from gradlab.training.step_times import StepTime

NOTE = "step_times"
"""Where a study's file keeps the times, by row (`RunConfig.row`)."""

CLOCK_NOTE = "step_clock"
"""Where it keeps what they were counted by."""


@dataclass(frozen=True)
class RowTime:
    """The time of a row's training step, and as many steps as fit in its baseline's time."""

    step: "StepTime"
    steps: int

    def as_json(self) -> dict[str, float]:
        """Seconds of a step, its ratio to the baseline's with its quartiles, and the steps."""
        return {**asdict(self.step), "steps": self.steps}


@dataclass(frozen=True)
class EqualRuns:
    """The runs of a study with the steps that make them equal.

    Attributes:
        configs: The runs.
        times: The time of each row's step; none at equal steps.
        notes: What the study's file keeps of it.
    """

    configs: "Sequence[RunConfig]"
    times: Mapping[str, RowTime] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)


def equal_runs(
    configs: "Sequence[RunConfig]",
    groups: "Sequence[Sequence[RunConfig]]",
    options: EqualOptions,
    out: Path,
) -> EqualRuns:
    """The runs at equal time or steps, as the options say.

    At equal time, as it was measured when the study was begun, or is now.

    Args:
        configs: All runs, with the steps of their baseline.
        groups: A run of each row, in groups of rows with equal compute, the baseline first.
        options: Of the command.
        out: The study's folder.

    Raises:
        GradlabError: An option, the corpus, the device or the folder cannot be used; the study in
            the folder was not begun at equal time, or without one of these rows.
    """
    from gradlab.cli.plan_losses import with_steps

    if options.equal == "steps":
        return EqualRuns(configs)
    times = _row_times(groups, options, out)
    return EqualRuns(
        with_steps(configs, {row: time.steps for row, time in times.items()}),
        times,
        {NOTE: {row: time.as_json() for row, time in times.items()}, CLOCK_NOTE: _clock(options)},
    )


def with_times(summary: "pd.DataFrame", times: Mapping[str, RowTime]) -> "pd.DataFrame":
    """A table of rows with the time of each one's step, where it was measured.

    Args:
        summary: A row an architecture, of one variant where it has the column variant.
        times: By `RunConfig.row`.

    Returns:
        The table with the columns step_seconds (the median) and step_ratio (to the baseline's).
    """
    if not times:
        return summary
    variants = summary.get("variant", [BASE_VARIANT] * len(summary))
    steps = [times[row_of(*row)].step for row in zip(summary["arch"], variants, strict=True)]
    return summary.assign(
        step_seconds=[step.median for step in steps], step_ratio=[step.ratio for step in steps]
    )


def _clock(options: EqualOptions) -> str:
    from gradlab.training.device import resolve_device
    from gradlab.training.step_times import clock_for

    return clock_for(resolve_device(options.device)).name


def _row_times(
    groups: "Sequence[Sequence[RunConfig]]", options: EqualOptions, out: Path
) -> dict[str, RowTime]:
    """The time of each row's step: the study's own, or measured now."""
    from gradlab.cli.plan import check_jobs
    from gradlab.cli.plan_losses import steps_in_time
    from gradlab.training.device import resolve_device
    from gradlab.training.step_times import step_times
    from gradlab.training.study import check_folder

    check_jobs(options.jobs, resolve_device(options.device).type)
    kept = _kept_times(out) if check_folder(out, resume=options.resume) else {}
    # Groups that differ in what takes no time, as the learning rate, share a measurement.
    found = {
        _work(group): [kept[config.row] for config in group]
        for group in groups
        if _is_kept(group, kept, out)
    }
    times = {}
    for group in groups:
        if _work(group) not in found:
            typer.echo(f"Timing a training step of {_named(group)}.", err=True)
            found[_work(group)] = step_times(group)
        for config, time in zip(group, found[_work(group)], strict=True):
            # Of another number of steps than before, other runs follow: the study refuses those.
            times[config.row] = RowTime(time, steps_in_time(time.ratio, group[0].steps))
    return times


def _work(group: "Sequence[RunConfig]") -> Hashable:
    """What decides how long a group's steps take on one device and text, in one precision."""
    return tuple(
        (
            config.model,
            config.batch_size,
            config.accumulation,
            config.optimizer.clip_norm is None,
        )
        for config in group
    )


def _named(group: "Sequence[RunConfig]") -> str:
    variant = group[0].variant
    return f"{len(group)} architectures" + (f" ({variant})" if variant != BASE_VARIANT else "")


def _is_kept(group: "Sequence[RunConfig]", kept: Mapping[str, "StepTime"], out: Path) -> bool:
    """Whether a study was begun with a group of rows; never with a part of one."""
    missing = [config.row for config in group if config.row not in kept]
    if missing and len(missing) < len(group):
        raise GradlabError(
            f"{out} was begun without {missing[0]}, whose step was not timed beside the others': "
            "choose another --out."
        )
    return not missing


def _kept_times(out: Path) -> "dict[str, StepTime]":
    from gradlab.runs.study import load_study
    from gradlab.training.step_times import StepTime

    kept = load_study(out).notes.get(NOTE)
    if kept is None:
        raise GradlabError(
            f"{out} holds a study that was not begun at equal time: give the options it was "
            "started with, or choose another --out."
        )
    names = ("median", "ratio", "low", "high")
    try:
        return {row: StepTime(*(float(time[name]) for name in names)) for row, time in kept.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise GradlabError(
            f"{out} holds step times that cannot be read ({error}): choose another --out."
        ) from error
