"""The command that makes a study: kept in the study's file, and read back beside its runs."""

import json
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradlab.cli.command import default_of, own_first
from gradlab.cli.options import RunOptions
from gradlab.errors import GradlabError

if TYPE_CHECKING:
    from gradlab.runs.reader import Run

NOTE = "command"
"""Where a study's file keeps the command."""

_STUDY_FILE = "study.json"

_NO_PART = frozenset({"config", "out", "jobs", "resume"})
"""Options that say where options come from, where the study lies and how it is gone about: no part
of what the study is. What `--config` set is in the other options."""


@dataclass(frozen=True)
class Command:
    """A command with what was asked of it.

    Attributes:
        name: `grad-norms`.
        options: By name with underscores, those that are not at their default.
    """

    name: str
    options: Mapping[str, Any]

    @property
    def line(self) -> str:
        """What one types."""
        words = ["gradlab", self.name]
        for name, value in self.options.items():
            words += _words(name, value)
        return shlex.join(words)

    def note(self) -> dict[str, Any]:
        """What a study's file keeps of it."""
        return {NOTE: {"name": self.name, "options": self.options}}


def command_of(name: str, options: RunOptions) -> Command:
    """A command with its options."""
    given = {
        field.name: value
        for field in own_first(type(options))
        if field.name not in _NO_PART
        and (value := getattr(options, field.name)) != default_of(field)
    }
    return Command(name, given)


def study_commands(runs: "Iterable[Run]") -> list[Command | None]:
    """The command of the study that each run is of.

    None for a run outside a study, or of one whose file has no command or cannot be read.
    """
    files: dict[Path, Mapping[str, Any]] = {}
    found: list[Command | None] = []
    for run in runs:
        place = None if run.path is None else run.path.resolve()
        if place is None:
            found.append(None)
            continue
        if place.parent not in files:
            files[place.parent] = _readable(place.parent)
        document = files[place.parent]
        found.append(_parse(document.get(NOTE)) if place.name in document.get("runs", ()) else None)
    return found


def read_study_file(folder: Path) -> dict[str, Any] | None:
    """A study's file as it is; None where there is none.

    Raises:
        GradlabError: It cannot be read, or names no runs.
    """
    file = folder / _STUDY_FILE
    try:
        document = json.loads(file.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise GradlabError(f"{file} cannot be read: {error.strerror}.") from None
    except ValueError:
        document = None
    if not isinstance(document, dict) or not isinstance(document.get("runs"), dict):
        raise GradlabError(f"{file} is damaged: which runs it planned is not known.")
    return document


def _readable(folder: Path) -> Mapping[str, Any]:
    try:
        return read_study_file(folder) or {}
    except GradlabError:
        return {}


def _parse(note: object) -> Command | None:
    match note:
        case {"name": str(name), "options": dict(options)}:
            return Command(name, options)
    return None


def _words(name: str, value: Any) -> list[str]:
    """An option as words of the command line."""
    option = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return [option if value else f"--no-{option[2:]}"]
    if isinstance(value, list):
        return [word for item in value for word in (option, _word(item))]
    return [option, _word(value)]


def _word(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)
