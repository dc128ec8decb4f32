"""What a kind of figure is, what it leaves open, and what it gives."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import pandas as pd
from matplotlib.figure import Figure

from gradlab.analyses.comparable import run_keys
from gradlab.analyses.compute import COMPUTE
from gradlab.analyses.gradient_study import window_length
from gradlab.errors import GradlabError, unknown
from gradlab.runs.reader import Run
from gradlab.runs.study import StudyRecord


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What a figure leaves open.

    Attributes:
        baseline: What figures 2 and 7 compare with; None for pre-ln, or else the first.
        compute: What figure 2 counts: `flops`, `seconds` or `tokens`.
        average: Steps of the windows of figures 3 and 7; None for as many as the study was told,
            or else 50, or as many as there is room for.
    """

    baseline: str | None = None
    compute: str = "flops"
    average: int | None = None

    def __post_init__(self) -> None:
        if self.compute not in COMPUTE:
            raise GradlabError(unknown("compute", self.compute, COMPUTE))

    def of(self, runs: Sequence[Run]) -> Self:
        """The same, if its baseline is among the runs.

        Raises:
            GradlabError: It is not.
        """
        known = dict.fromkeys(arch for _, arch, _ in run_keys(runs))
        if self.baseline is not None and runs and self.baseline not in known:
            raise GradlabError(unknown("baseline", self.baseline, known))
        return self

    def baseline_of(self, runs: Sequence[Run]) -> str:
        """The architecture asked for, else Pre-LN, else the first."""
        if self.baseline is not None:
            return self.baseline
        architectures = [arch for _, arch, _ in run_keys(runs)]
        return "pre-ln" if "pre-ln" in architectures else architectures[0]

    def length_of(self, runs: Sequence[Run]) -> int:
        """Steps of the windows of some runs."""
        return window_length(runs) if self.average is None else self.average


AS_USUAL = Choices()


@dataclass(frozen=True)
class Drawing:
    """A figure and the table behind it.

    Attributes:
        name: Of its files, without an ending.
        figure: The figure.
        table: Its numbers with the runs behind each, if they fit a small table.
    """

    name: str
    figure: Figure
    table: pd.DataFrame | None = None


@dataclass(frozen=True)
class Kind:
    """A kind of figure.

    Attributes:
        title: `figure 4`.
        heading: What it shows, in a few words.
        caption: How to read it, in a sentence or two.
    """

    title: str
    heading: str
    caption: str


@dataclass(frozen=True, kw_only=True)
class RunsKind(Kind):
    """A kind of figure that is made of what runs recorded.

    Attributes:
        tables: The tables that each run must have recorded.
        remedy: How to record them.
        draw: From comparable runs to drawings, in the order of the architectures.
        free: What may differ between the runs of one figure
            (`gradlab.analyses.comparable.check_comparable`).
        by_rate: Its runs differ in their learning rate too, so that an architecture and seed are
            in it once at each.
        one_step: It shows one step that all runs have, which those that destabilised bring down
            to their last: they are left out where there are others.
        lacks: Why a run that has the tables cannot be in it, in a few words; None if it can.
    """

    tables: tuple[str, ...]
    remedy: str
    draw: Callable[[Sequence[Run], Choices], Iterator[Drawing]]
    free: tuple[str, ...] = ()
    by_rate: bool = False
    one_step: bool = False
    lacks: Callable[[Run], str | None] = lambda _: None


@dataclass(frozen=True, kw_only=True)
class StudyKind(Kind):
    """A kind of figure that is made of a whole study.

    Attributes:
        command: What makes such a study.
        draw: From the study, or the studies of a command that makes several, to drawings.
    """

    command: str
    draw: Callable[[StudyRecord], Iterator[Drawing]]

    def is_of(self, study: StudyRecord) -> bool:
        """Whether it shows such a study."""
        return study.command is not None and study.command.name == self.command


@dataclass(frozen=True, kw_only=True)
class StabilityKind(Kind):
    """A kind of figure that is made of a stability table.

    Attributes:
        draw: From the table (`gradlab.analyses.stability_table`) to drawings.
    """

    draw: Callable[[pd.DataFrame], Iterator[Drawing]]
