"""What a study tells of itself while it is made."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from gradlab.config import RunConfig
from gradlab.training.progress import Progress

State = Literal["running", "finished", "failed"]


@dataclass(frozen=True)
class Timing:
    """The training steps of some rows are being timed, which takes a while.

    Attributes:
        what: `normformer and of pre-ln, whose time all take`.
        share: How much of it is done; 0 only once, as it begins.
    """

    what: str
    share: float = 0.0


@dataclass(frozen=True)
class Planned:
    """The runs of the study are known, and about to be trained."""

    configs: Sequence[RunConfig]


@dataclass(frozen=True)
class Named:
    """Runs that are no study's are about to be made: their names are known."""

    names: Sequence[str]


@dataclass(frozen=True)
class RunUpdate:
    """News of one run of a study.

    Attributes:
        name: The run's name, `run_name(config)`.
        state: Where it stands now.
        progress: Its last step that was looked at, while it runs.
        message: Why it failed, in a sentence.
    """

    name: str
    state: State
    progress: Progress | None = None
    message: str | None = None


@dataclass(frozen=True)
class StudyBegun:
    """One of several studies is about to be made.

    Attributes:
        line: What one types to make it alone.
    """

    line: str


News = StudyBegun | Timing | Planned | Named | RunUpdate

Tell = Callable[[News], None]


def tell_nobody(_: News) -> None:
    """What is told where nobody listens."""
