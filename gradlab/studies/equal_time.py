"""Equal compute as equal time on the device: how many steps each row of a study takes."""

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradlab.config import BASE_VARIANT, RunConfig, row_of
from gradlab.errors import ConfigError, GradlabError
from gradlab.runs.study import load_study
from gradlab.studies.folder import add_notes, check_folder
from gradlab.studies.news import Tell, Timing

if TYPE_CHECKING:
    import pandas as pd

    from gradlab.studies.step_times import StepTime

NOTE = "step_times"
"""Where a study's file keeps the times, by row (`RunConfig.row`)."""

CLOCK_NOTE = "step_clock"
"""Where it keeps what they were counted by."""

UNFINISHED = "timed_seconds"
"""Where it keeps, of a timing that was interrupted, the seconds of each step: lists of a group's
rows, by the digest of what they do."""


@dataclass(frozen=True)
class RowTime:
    """The time of a row's training step, and as many steps as fit in its baseline's time."""

    step: "StepTime"
    steps: int

    def as_json(self) -> dict[str, float]:
        """Seconds of a step, its ratio to the baseline's with its quartiles, and the steps."""
        return {**asdict(self.step), "steps": self.steps}


def at_equal_time(
    configs: Sequence[RunConfig],
    groups: Sequence[Sequence[RunConfig]],
    out: Path,
    *,
    resume: bool,
    tell: Tell,
) -> tuple[list[RunConfig], dict[str, Any]]:
    """The runs with the steps that take equal time, and what the study's file keeps of it.

    The times are those measured when the study was begun, or are measured now.

    Args:
        configs: All runs, with the steps of their baseline.
        groups: A run of each row, in groups of rows with equal compute, the baseline first.
        out: The study's folder.
        resume: Go on with the study that lies there.
        tell: Is told of each measurement.

    Raises:
        GradlabError: The corpus, the device or the folder cannot be used; the study in the folder
            was not begun at equal time, or without one of these rows.
    """
    from gradlab.studies.step_times import clock_for
    from gradlab.training.device import resolve_device

    kept: dict[str, StepTime] = {}
    seconds: dict[str, list[list[float]]] = {}
    if check_folder(out, resume=resume):
        notes = load_study(out).notes
        kept, seconds = _kept_times(out, notes), _kept_seconds(out, notes)
    try:
        times = _row_times(groups, kept, seconds, tell)
    except KeyboardInterrupt:
        if seconds:
            add_notes(out, {UNFINISHED: seconds}, unless={NOTE: {}})
        raise
    clock = clock_for(resolve_device(configs[0].device)).name
    steps = with_steps(configs, {row: time.steps for row, time in times.items()})
    measured = {row: time.as_json() for row, time in times.items()}
    return steps, {NOTE: measured, CLOCK_NOTE: clock, UNFINISHED: None}


def steps_in_time(ratio: float, steps: int) -> int:
    """As many steps as take the time of the baseline's, to the nearest, and one at least.

    Args:
        ratio: Of the time of a step to the baseline's.
        steps: The baseline's.
    """
    return max(1, round(steps / ratio))


def with_steps(configs: Sequence[RunConfig], steps: Mapping[str, int]) -> list[RunConfig]:
    """The runs with the steps of their row (`RunConfig.row`).

    One that was validated after its last step alone still is.

    Raises:
        ConfigError: A row's steps leave none after the warm-up.
    """
    for config in configs:
        check_warmup(config.schedule.warmup_steps, steps[config.row], config.row)
    return [_lasting(config, steps[config.row]) for config in configs]


def _lasting(config: RunConfig, steps: int) -> RunConfig:
    once = config.val_every >= config.steps
    return config.replace(steps=steps, val_every=steps if once else config.val_every)


def check_warmup(warmup: int, steps: int, row: str = "") -> None:
    """See that a warm-up leaves steps at the learning rate itself.

    Raises:
        ConfigError: It does not.
    """
    if 0 < steps <= warmup:
        whose = f" of {row}" if row else ""
        raise ConfigError(
            f"--warmup {warmup} leaves none of the {steps} steps{whose} at the learning rate "
            "itself: warm up for fewer, or take more steps."
        )


def with_times(summary: "pd.DataFrame", notes: Mapping[str, Any]) -> "pd.DataFrame":
    """A table of rows with the time of each one's step, where it was measured.

    Args:
        summary: A row an architecture, of one variant where it has the column variant.
        notes: Of the study (`StudyRecord.notes`).

    Returns:
        The table with the columns step_seconds (the median) and step_ratio (to the baseline's).
    """
    times = notes.get(NOTE)
    if not times:
        return summary
    variants = summary.get("variant", [BASE_VARIANT] * len(summary))
    steps = [times[row_of(*row)] for row in zip(summary["arch"], variants, strict=True)]
    return summary.assign(
        step_seconds=[step["median"] for step in steps],
        step_ratio=[step["ratio"] for step in steps],
    )


def _row_times(
    groups: Sequence[Sequence[RunConfig]],
    kept: "Mapping[str, StepTime]",
    seconds: dict[str, list[list[float]]],
    tell: Tell,
) -> dict[str, RowTime]:
    """The time of each row's step: the study's own, or measured now, on from what was."""
    # Groups that differ in what takes no time, as the learning rate, share a measurement.
    found: dict[Hashable, list[StepTime | None]] = {}
    for group in groups:
        known = found.setdefault(_work(group), [None] * len(group))
        known[:] = [time or kept.get(config.row) for time, config in zip(known, group, strict=True)]
    times = {}
    for group in groups:
        # Of another number of steps than before, other runs follow: the study refuses those.
        whole = _whole(found[_work(group)], group, seconds, tell)
        for config, time in zip(group, whole, strict=True):
            times[config.row] = RowTime(time, steps_in_time(time.ratio, group[0].steps))
    return times


def _whole(
    known: "list[StepTime | None]",
    group: Sequence[RunConfig],
    seconds: dict[str, list[list[float]]],
    tell: Tell,
) -> "list[StepTime]":
    """The times of a group of which some are known: the others are measured, and known then.

    They are measured beside the baseline, in the same rounds: a ratio is to that.
    """
    from gradlab.studies import step_times

    if None in known:
        places = [place for place, time in enumerate(known) if time is None or not place]
        timed = [group[place] for place in places]
        what = _named(timed)
        tell(Timing(what))
        measured = step_times.step_times(
            timed,
            seconds=seconds.setdefault(_digest(timed), [[] for _ in timed]),
            progress=lambda share: tell(Timing(what, share)),
        )
        for place, time in zip(places, measured, strict=True):
            known[place] = known[place] or time
    return [time for time in known if time is not None]


def _work(group: Sequence[RunConfig]) -> Hashable:
    """What decides how long a group's steps take on one device and text, in one precision."""
    return tuple(
        (
            config.model,
            config.batch_size,
            config.accumulation,
            config.optimizer.clip_norm is None,
            config.optimizer.z_loss == 0,
        )
        for config in group
    )


def _digest(group: Sequence[RunConfig]) -> str:
    """What tells the steps of a group, and what counts their time, from any others.

    The device is the one that is used: `auto` is another on another machine.
    """
    from gradlab.studies.step_times import clock_for
    from gradlab.training.device import resolve_device

    devices = [resolve_device(config.device) for config in group]
    used = [(str(device), clock_for(device).name) for device in devices]
    shared = [(config.precision, config.data, config.compile) for config in group]
    return hashlib.sha256(repr((_work(group), used, shared)).encode()).hexdigest()


def _named(group: Sequence[RunConfig]) -> str:
    baseline = group[0]
    variant = f" ({baseline.variant})" if baseline.variant != BASE_VARIANT else ""
    if len(group) == 1:
        return f"{baseline.arch}{variant}"
    others = ", ".join(config.arch for config in group[1:])
    return f"{others}{variant} and of {baseline.arch}, whose time all take"


def _kept_times(out: Path, notes: Mapping[str, Any]) -> "dict[str, StepTime]":
    from gradlab.studies.step_times import StepTime

    kept = notes.get(NOTE)
    if kept is None:
        raise GradlabError(
            f"{out} holds a study that was not begun at equal time: give the options it was "
            "started with, or choose another folder."
        )
    names = ("median", "ratio", "low", "high")
    try:
        return {row: StepTime(*(float(time[name]) for name in names)) for row, time in kept.items()}
    except _UNREADABLE as error:
        raise _cannot_be_read(out, error) from error


def _kept_seconds(out: Path, notes: Mapping[str, Any]) -> dict[str, list[list[float]]]:
    """Of a timing that was interrupted."""
    kept = notes.get(UNFINISHED) or {}
    try:
        return {work: [[*map(float, row)] for row in rows] for work, rows in kept.items()}
    except _UNREADABLE as error:
        raise _cannot_be_read(out, error) from error


_UNREADABLE = (AttributeError, KeyError, TypeError, ValueError)


def _cannot_be_read(out: Path, error: Exception) -> GradlabError:
    return GradlabError(
        f"{out} holds step times that cannot be read ({error}): choose another folder."
    )
