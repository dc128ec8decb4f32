"""The one place where text goes to a screen, and how a table's cells break where it is narrow."""

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from gradlab.analyses.wording import printable
from gradlab.pages import table as tables

_BREAKS = re.compile(r"(?<=\s)(?![^()]*\))|(?<=[A-Za-z_]\.)|(?<=\.)(?=[A-Za-z_])|(?<=[a-z]-)")
"""Between words outside brackets, in a dotted name behind its dots, and behind hyphens of names."""


_FILL = re.compile(r" +$", re.MULTILINE)
"""Blanks that fill a line."""


class Screen(Console):
    """A console that shows text as it is: what a module's or a file's name holds cannot act on it.

    It neither reads markup in brackets nor colours numbers. No line of a file or a pipe ends in
    blanks.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, highlight=False, emoji=False, **options)

    def print(self, *objects: Any, **options: Any) -> None:
        """Text, tables and what else can be shown."""
        if self.is_terminal:
            super().print(*objects, **options)
            return
        with self.capture() as shown:
            super().print(*objects, **options)
        self.file.write(_FILL.sub("", shown.get()))
        self.file.flush()

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """What it is asked to show, without control characters but its own."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))


def complain(sentence: str) -> None:
    """Say what went wrong, on stderr."""
    print(printable(sentence), file=sys.stderr)


def results_table() -> Table:
    """A table of results, without lines."""
    return Table(box=None, pad_edge=False, header_style="dim")


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


def on_screen(table: tables.Table) -> Group:
    """A table as a screen shows it, below its caption, which may be wider."""
    made = results_table()
    for heading in table.headings:
        made.add_column(Words(heading), no_wrap=heading in table.whole)
    for row in table.rows:
        made.add_row(*(Words(cell.text) for cell in row))
    caption = [Text(table.caption, style="bold")] if table.shown else []
    return Group(*caption, made)
