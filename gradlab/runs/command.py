"""What one types to make a study, as its `study.json` keeps it."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMMAND_NOTE = "command"
"""Where `study.json` keeps the command."""


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
        words: list[object] = ["gradlab", self.name]
        for name, value in self.options.items():
            words += _words(name, value)
        return typed(*words)

    def at(self, folder: Path, **place: Any) -> str:
        """What one types to have it done in a folder."""
        return Command(self.name, {**self.options, "out": folder, **place}).line

    def note(self) -> dict[str, Any]:
        """What a study's file keeps of it."""
        return {COMMAND_NOTE: {"name": self.name, "options": self.options}}


def typed(*words: object) -> str:
    """A command as one types it, whatever the names of its files are."""
    return shlex.join(
        f"./{word}" if isinstance(word, Path) and str(word).startswith("-") else str(word)
        for word in words
    )


def _words(name: str, value: Any) -> list[object]:
    """An option as words of the command line."""
    option = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return [option if value else f"--no-{option[2:]}"]
    if isinstance(value, list | tuple):
        return [word for item in value for word in (option, _word(item))]
    return [option, _word(value)]


def _word(value: Any) -> object:
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else value
