"""Where a run's rows lie: Parquet parts in a folder, or Arrow tables in memory."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gradlab.errors import GradlabError


class Parts(Protocol):
    """The rows of a run's tables."""

    def present(self) -> Sequence[str]:
        """Tables that have rows."""
        ...

    def read(
        self, table: str, columns: pa.Schema, between: tuple[int, int] | None
    ) -> list[pa.Table]:
        """Columns of the rows of one of them, in the order they were written.

        Args:
            table: Which.
            columns: Those wanted, `step` among them.
            between: First and last step of the rows wanted; all if None.
        """
        ...


class MemoryParts:
    """Rows in memory."""

    def __init__(self, tables: Mapping[str, Sequence[pa.Table]]) -> None:
        self._tables = tables

    def present(self) -> list[str]:
        """Tables that have rows."""
        return list(self._tables)

    def read(
        self, table: str, columns: pa.Schema, between: tuple[int, int] | None
    ) -> list[pa.Table]:
        """Columns of the rows of one of them."""
        parts = (part.select(columns.names) for part in self._tables.get(table, ()))
        return [_between(part, between) for part in parts]


class FolderParts:
    """Rows in Parquet files, `<run>/<table>/part-<number>.parquet`.

    Other names are no parts: a writer's temporary files start with a dot.
    """

    def __init__(self, run: Path) -> None:
        self._run = run

    def present(self) -> list[str]:
        """Tables that have rows."""
        return sorted({file.parent.name for file in self._run.glob("*/part-*.parquet")})

    def read(
        self, table: str, columns: pa.Schema, between: tuple[int, int] | None
    ) -> list[pa.Table]:
        """Columns of the rows of one of them; of parts with other steps, the end alone is read.

        Raises:
            GradlabError: A part is damaged or holds other columns; the sentence names it.
        """
        return [_read(file, table, columns, between) for file in self._files(table)]

    def _files(self, table: str) -> list[Path]:
        return sorted((self._run / table).glob("part-*.parquet"))


def _read(file: Path, table: str, wanted: pa.Schema, between: tuple[int, int] | None) -> pa.Table:
    try:
        with pq.ParquetFile(file) as part:
            if between and not _overlaps(part.metadata, between):
                return wanted.empty_table()
            rows = part.read(columns=wanted.names).select(wanted.names).cast(wanted)
            return _between(rows, between)
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        reason = str(error).split("\n")[0].rstrip(".")
        raise GradlabError(
            f"{file} is damaged and cannot be read ({reason}): move it away to read the rest of "
            f"{table}."
        ) from error


def _overlaps(metadata: pq.FileMetaData, between: tuple[int, int]) -> bool:
    """Whether a part may have rows of these steps, by what its end says of its contents."""
    at = metadata.schema.names.index("step")
    ranges = [metadata.row_group(n).column(at).statistics for n in range(metadata.num_row_groups)]
    return any(r is None or (r.min <= between[1] and r.max >= between[0]) for r in ranges)


def _between(rows: pa.Table, between: tuple[int, int] | None) -> pa.Table:
    if between is None:
        return rows
    step = rows["step"]
    return rows.filter(pc.and_(pc.greater_equal(step, between[0]), pc.less_equal(step, between[1])))
