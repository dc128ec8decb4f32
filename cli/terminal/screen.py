"""Where results are printed."""

import os

from gradlab.pages.screen import Screen
from gradlab.runs.command import typed

_FILE_WIDTH = 160
"""Columns of a table that goes to a file or a pipe: wide enough not to fold."""


def say_next(*words: object) -> None:
    """The command to try next, as one types it; on stderr, as it is no result."""
    Screen(stderr=True).print(f"Next: {typed(*words)}", style="dim", soft_wrap=True)


def output() -> Screen:
    """The console for results, on stdout; as wide as a table needs where it is no terminal."""
    console = Screen()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _FILE_WIDTH
    return console
