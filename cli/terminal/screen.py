"""Where results are printed."""

import os

from gradlab.pages.screen import Screen

_FILE_WIDTH = 160
"""Columns of a table that goes to a file or a pipe: wide enough not to fold."""


def output() -> Screen:
    """The console for results, on stdout; as wide as a table needs where it is no terminal."""
    console = Screen()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _FILE_WIDTH
    return console
