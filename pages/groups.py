"""The runs of a page in groups that compare, and what each group's tables say."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import pandas as pd

from gradlab.analyses.comparable import comparable_groups
from gradlab.analyses.gradient_study import study_gradients, window_length
from gradlab.analyses.stability_table import ramps_table
from gradlab.config import BASE_VARIANT
from gradlab.errors import GradlabError
from gradlab.runs.reader import Run

FREE = ("sizes", "schedules")
"""What the runs of a group may differ in, beside architecture and seed."""


@dataclass(frozen=True, eq=False)
class Group:
    """Runs that compare.

    Attributes:
        runs: The runs by name.
        notes: A sentence for each thing that could not be used; grows while figures are made.
    """

    runs: Mapping[str, Run]
    notes: list[str] = field(default_factory=list)

    def note(self, sentence: str) -> None:
        """Add a sentence, once."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    @cached_property
    def stability(self) -> pd.DataFrame | None:
        """The table of the runs on a ramp that have ended, as a stability study has it."""
        table = ramps_table(run for run in self.runs.values() if not run.attached)
        return table if len(table) else None

    @cached_property
    def gradients(self) -> dict[str, pd.DataFrame]:
        """The gradients by layer of the runs that reached their last step, by size and schedule."""
        runs = [run for run in self.runs.values() if self._has_gradients(run)]
        found: dict[str, pd.DataFrame] = {}
        groups = comparable_groups(runs)
        for name, alike in zip(_told_apart([one[0] for one in groups]), groups, strict=True):
            try:
                found[name] = study_gradients(alike, length=window_length(alike))
            except GradlabError as error:
                self.note(str(error))
        return found

    def _has_gradients(self, run: Run) -> bool:
        """Whether a run has a late window, and gradients that can be read."""
        if run.attached or not run.completed or "grad_norms" not in run.tables:
            return False
        try:
            run.table("grad_norms", ["step"])
        except GradlabError as error:
            self.note(str(error))
            return False
        return True


def groups(runs: Mapping[str, Run]) -> list[Group]:
    """The runs sorted into groups that compare; those of loops of the user's own are one group.

    Of several runs of one architecture, size, seed and schedule one is taken: the first; on a ramp
    one that broke, or else the longest.
    """
    names = {id(run): name for name, run in runs.items()}
    own = [run for run in runs.values() if not run.attached]
    made = []
    for group in comparable_groups(own, free=FREE):
        taken: dict[object, Run] = {}
        for run in group:
            first = taken.setdefault(_twin_key(run), run)
            if is_ramp(run) and _reach(run) > _reach(first):
                taken[_twin_key(run)] = run
        notes = [
            f"{names[id(run)]} has the architecture, size, seed and schedule of "
            f"{names[id(other)]}, which stands for both: it is left out here."
            for run in group
            if (other := taken[_twin_key(run)]) is not run
        ]
        made.append(Group({names[id(run)]: run for run in taken.values()}, notes))
    attached = {name: run for name, run in runs.items() if run.attached}
    return [*made, Group(attached)] if attached else made


def _twin_key(run: Run) -> object:
    config = run.config
    asked = config.schedule.lr_step if is_ramp(run) else (config.schedule, config.steps)
    return (config.size, config.arch, config.seed, asked)


def _reach(run: Run) -> tuple[bool, int]:
    """How much a run on a ramp says of its break: where it is, or how far off it is at least."""
    return run.verdict is not None and run.verdict.broke, run.config.steps


def is_ramp(run: Run) -> bool:
    """Whether a run is one of the stability test."""
    return not run.attached and run.config.schedule.kind == "ramp"


def subject(run: Run) -> str:
    """A run's size, variant and schedule in words; its model, if that is all that is known."""
    if run.attached:
        return str(run.info.get("model", "a model"))
    schedule, size = run.config.schedule, run.config.size_label
    if run.config.variant != BASE_VARIANT:
        size = f"{size}, {run.config.variant}"
    if schedule.kind == "ramp":
        return f"{size}, LR rising by {schedule.lr_step:g} a step"
    return f"{size}, {schedule.kind} LR {schedule.lr:g}"


def _told_apart(runs: Sequence[Run]) -> list[str]:
    """The subject of each run, with its steps and warm-up if two have one, and then a number."""
    names = [subject(run) for run in runs]
    if len(set(names)) < len(names):
        lengths = [(run.config.steps, run.config.schedule.warmup_steps) for run in runs]
        names = [
            f"{name}, {steps} steps, {warmup} of warm-up"
            for name, (steps, warmup) in zip(names, lengths, strict=True)
        ]
    if len(set(names)) < len(names):
        names = [f"{name} ({place + 1})" for place, name in enumerate(names)]
    return names
