"""Where results are printed, and how a table's cells break where it is narrow."""

import os
import re
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

_FILE_WIDTH = 160
"""Columns of a table that goes to a file or a pipe: wide enough not to fold."""

_BREAKS = re.compile(r"(?<=\s)(?![^()]*\))|(?<=[A-Za-z_]\.)|(?<=\.)(?=[A-Za-z_])|(?<=[a-z]-)")
"""Between words outside brackets, in a dotted name behind its dots, and behind hyphens of names."""


def output() -> Console:
    """The console for results, on stdout; as wide as a table needs where it is no terminal."""
    console = Console(markup=False, highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _FILE_WIDTH
    return console


def results_table(title: str | None = None) -> Table:
    """A table of results, without lines."""
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        header_style="dim",
    )


@dataclass(frozen=True)
class Words:
    """Text of a table's cell, which stays in one line as far as there is room for it.

    Where there is not, it breaks between words and behind the dots of a name, but not within
    brackets: `0.14` and below it `(0.139 to 0.164)`, `blocks.0.` and below it `attention.scores`.
    """

    text: str

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """From the longest part to the whole."""
        longest = max(len(part.rstrip()) for part in self._parts())
        return Measurement(min(longest, options.max_width), min(len(self.text), options.max_width))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Lines as full as they can be."""
        lines = [""]
        for part in self._parts():
            if lines[-1] and len(lines[-1] + part.rstrip()) > options.max_width:
                lines.append("")
            lines[-1] += part
        yield Text("\n".join(line.rstrip() for line in lines), overflow="fold")

    def _parts(self) -> list[str]:
        return _BREAKS.split(self.text)
