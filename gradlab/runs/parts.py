"""Where a run's rows lie: Parquet parts in a folder, or Arrow tables in memory."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from gradlab.errors import GradlabError


class Parts(Protocol):
    """The rows of a run's tables."""

    def present(self) -> Sequence[str]:
        """Tables that have rows."""
        ...

    def read(self, table: str, columns: pa.Schema) -> list[pa.Table]:
        """Columns of the rows of one of them, in the order they were written."""
        ...


class MemoryParts:
    """Rows in memory."""

    def __init__(self, tables: Mapping[str, Sequence[pa.Table]]) -> None:
        self._tables = tables

    def present(self) -> list[str]:
        """Tables that have rows."""
        return list(self._tables)

    def read(self, table: str, columns: pa.Schema) -> list[pa.Table]:
        """Columns of the rows of one of them."""
        return [part.select(columns.names) for part in self._tables.get(table, ())]


class FolderParts:
    """Rows in Parquet files, `<run>/<table>/part-<number>.parquet`.

    Other names are no parts: a writer's temporary files start with a dot.
    """

    def __init__(self, run: Path) -> None:
        self._run = run

    def present(self) -> list[str]:
        """Tables that have rows."""
        return sorted({file.parent.name for file in self._run.glob("*/part-*.parquet")})

    def read(self, table: str, columns: pa.Schema) -> list[pa.Table]:
        """Columns of the rows of one of them.

        Raises:
            GradlabError: A part is damaged or holds other columns; the sentence names it.
        """
        return [_read(file, table, columns) for file in self._files(table)]

    def _files(self, table: str) -> list[Path]:
        return sorted((self._run / table).glob("part-*.parquet"))


def _read(file: Path, table: str, wanted: pa.Schema) -> pa.Table:
    try:
        with pq.ParquetFile(file) as part:
            return part.read(columns=wanted.names).select(wanted.names).cast(wanted)
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        reason = str(error).split("\n")[0].rstrip(".")
        raise GradlabError(
            f"{file} is damaged and cannot be read ({reason}): move it away to read the rest of "
            f"{table}."
        ) from error
