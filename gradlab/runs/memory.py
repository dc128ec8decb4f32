"""A writer that keeps a run in memory, for use without a folder."""

from collections.abc import Mapping, Sequence
from typing import Any

from gradlab.config import RunConfig
from gradlab.runs.document import closing, opening
from gradlab.runs.parts import MemoryShelf
from gradlab.runs.reader import Run
from gradlab.runs.rows import RowWriter
from gradlab.runs.schema import arrow_table
from gradlab.runs.verdict import Verdict

_LARGEST = 20_000
"""Rows from which on a part's own description, some 3 kB, is little beside them."""


class MemoryWriter:
    """Has the methods of `RunWriter` and no folder: `path` is None."""

    path = None

    def __init__(self, config: RunConfig | None, info: Mapping[str, Any] | None = None) -> None:
        self._document = opening(config, info or {})
        self._shelf = MemoryShelf()
        self._rows = RowWriter(self._shelf, _LARGEST)

    def write(self, table: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """Add rows to a table."""
        rows = arrow_table(table, columns, self._document["own_tables"])
        if rows.num_rows:
            self._rows.write(table, rows)

    def finish(self, status: str, verdict: Verdict | None = None, **info: Any) -> None:
        """Note how the run ended."""
        self._document = closing(self._document, status, verdict, self._rows.writes, info)

    def run(self) -> Run:
        """What has been recorded so far."""
        return Run.from_document(self._document, self._shelf.snapshot())
