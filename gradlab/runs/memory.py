"""A writer that keeps a run in memory, for use without a folder."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from gradlab.config import RunConfig
from gradlab.runs.document import closing, opening
from gradlab.runs.reader import Run
from gradlab.runs.schema import arrow_table
from gradlab.runs.verdict import Verdict


class MemoryWriter:
    """Has the methods of `RunWriter` and no folder: `path` is None."""

    path = None

    def __init__(self, config: RunConfig | None, info: Mapping[str, Any] | None = None) -> None:
        self._document = opening(config, info or {})
        self._parts: dict[str, list[pa.Table]] = {}

    def write(self, table: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """Add rows to a table."""
        rows = arrow_table(table, columns, self._document["own_tables"])
        if rows.num_rows:
            self._parts.setdefault(table, []).append(rows)

    def finish(self, status: str, verdict: Verdict | None = None, **info: Any) -> None:
        """Note how the run ended."""
        self._document = closing(self._document, status, verdict, info)

    def run(self) -> Run:
        """What has been recorded so far."""
        parts = {table: tuple(rows) for table, rows in self._parts.items()}
        return Run.from_document(self._document, parts)
