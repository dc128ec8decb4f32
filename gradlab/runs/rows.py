"""Rows into parts and out of them again.

Every write makes a part. Ten neighbours of one size become one, so that a table of w writes has
some 9 · log₁₀ w parts, until they have a million rows together; from there on one more for each
million. Every row is written log₁₀ w times at most.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gradlab.errors import GradlabError
from gradlab.runs.parts import Part, Shelf, damaged, gaps, that_count, whole

FAN_IN = 10
"""Neighbouring parts of one size that are merged."""

_LOOKS = 5
"""Times that a folder is listed while its writer merges parts."""


Mark: TypeAlias = Mapping[str, Sequence[int]]
"""How much has been written: by table, its rows and the number of writes."""


@dataclass(frozen=True)
class _Kept:
    """A part that has been written; `size` is the number of merges in it, None if that is all."""

    part: Part
    rows: int
    size: int | None


class RowWriter:
    """Writes the rows of a run's tables.

    Args:
        shelf: Where to.
        largest: Rows of a merged part at most: it bounds what a merge takes in time and memory.
    """

    def __init__(self, shelf: Shelf, largest: int) -> None:
        self._shelf = shelf
        self._largest = largest
        self._kept: dict[str, list[_Kept]] = {}

    @property
    def writes(self) -> dict[str, int]:
        """How many writes each table has had."""
        return {table: kept[-1].part.last + 1 for table, kept in self._kept.items()}

    def mark(self) -> dict[str, list[int]]:
        """How much has been written so far, to `go_back` to."""
        return {
            table: [sum(one.rows for one in kept), kept[-1].part.last + 1]
            for table, kept in self._kept.items()
        }

    def go_back(self, mark: Mark) -> None:
        """Go on with what another writer left here, as it was at a mark: remove what came after.

        Raises:
            GradlabError: Rows from before the mark are damaged or gone, or parts cannot be changed.
        """
        self._kept = {}
        for table in dict.fromkeys([*self._shelf.tables(), *mark]):
            rows, writes = mark.get(table, (0, 0))
            if kept := self._first(table, rows, writes):
                self._kept[table] = kept
            parts = {one.part for one in kept}
            self._shelf.remove(table, [p for p in self._shelf.parts(table) if p not in parts])

    def _first(self, table: str, rows: int, writes: int) -> list[_Kept]:
        """The parts with a table's first rows; of one that goes on beyond them a shorter one."""
        kept: list[_Kept] = []
        left = rows
        for part in that_count(self._shelf.parts(table)):
            if part.first >= writes:
                break
            contents = _rows(self._shelf, table, part).slice(0, left)
            if part.last >= writes:  # merged later
                part = self._put(table, part.first, writes - 1, contents)
            kept.append(_Kept(part, contents.num_rows, size=None))
            left -= contents.num_rows
        if left:
            raise GradlabError(f"{self._shelf.place(table)}: {left} rows are gone.")
        return kept

    def write(self, table: str, rows: pa.Table) -> None:
        """Add rows as a part, and merge it with its older neighbours when there are enough.

        Raises:
            GradlabError: They cannot be written; what was written before stays.
        """
        kept = self._kept.get(table, [])
        number = kept[-1].part.last + 1 if kept else 0
        part = self._put(table, number, number, rows)
        self._kept[table] = [*kept, _Kept(part, rows.num_rows, size=0)]
        while self._merge(table):
            pass

    def _put(self, table: str, first: int, last: int, rows: pa.Table) -> Part:
        content = _parquet(rows)
        part = Part.of(first, last, content)
        self._shelf.put(table, part, content)
        return part

    def _merge(self, table: str) -> bool:
        """Make the last parts one if they are alike; whether they were."""
        kept = self._kept[table]
        last = kept[-FAN_IN:]
        size, rows = last[0].size, sum(one.rows for one in last)
        if len(last) < FAN_IN or size is None or any(one.size != size for one in last):
            return False
        parts = [one.part for one in last]
        try:
            if rows > self._largest:
                merged = [replace(one, size=None) for one in last]
            else:
                contents = pa.concat_tables([_rows(self._shelf, table, one) for one in parts])
                part = self._put(table, parts[0].first, parts[-1].last, contents)
                with contextlib.suppress(GradlabError):  # they do no harm where they are
                    self._shelf.remove(table, parts)
                merged = [_Kept(part, rows, size + 1)]
        except (GradlabError, FileNotFoundError):
            # A full disk, or a part that somebody damaged: it is told when it is met again.
            merged = [replace(one, size=None) for one in last]
        self._kept[table] = [*kept[:-FAN_IN], *merged]
        return True


def read_rows(
    shelf: Shelf, table: str, columns: pa.Schema, between: tuple[int, int] | None
) -> list[pa.Table]:
    """Columns of a table's rows, in the order they were written.

    Args:
        shelf: Where its parts are.
        table: Which.
        columns: Those wanted, `step` among them.
        between: First and last step of the rows wanted; all if None.

    Raises:
        GradlabError: A part is damaged or holds other columns; the sentence names it.
    """
    for look in range(_LOOKS):
        try:
            parts = that_count(shelf.parts(table))
            return [_rows(shelf, table, part, columns, between) for part in parts]
        except FileNotFoundError:  # merged into another since the folder was listed
            if look == _LOOKS - 1:
                raise GradlabError(
                    f"{shelf.place(table)} changes faster than it can be read: try again."
                ) from None
    raise AssertionError


def missing_rows(shelf: Shelf, table: str, writes: int | None) -> str | None:
    """A sentence that says which of a table's rows are missing; None if all are there.

    Args:
        shelf: Where its parts are.
        table: Which.
        writes: How many writes there were; None if that is not known.
    """
    for _ in range(_LOOKS):  # a part may have been merged into another while they were listed
        parts = that_count(shelf.parts(table))
        holes = gaps(parts, writes)
        if not holes:
            return None
    where = " and ".join(_between_steps(shelf, table, parts, hole) for hole in holes)
    several = len(holes) > 1 or holes[0][1] > holes[0][0]
    return (
        f"{shelf.place(table)}: {'parts are' if several else 'a part is'} missing, so that rows "
        f"{where} are gone."
    )


def _between_steps(shelf: Shelf, table: str, parts: Sequence[Part], hole: tuple[int, int]) -> str:
    """Where a hole is, by the steps of the parts beside it."""
    before = [part for part in parts if part.last < hole[0]][-1:]
    after = [part for part in parts if part.first > hole[1]][:1]
    step = pa.schema([pa.field("step", pa.int64())])
    try:
        last = [pc.max(_rows(shelf, table, part, step)["step"]).as_py() for part in before]
        first = [pc.min(_rows(shelf, table, part, step)["step"]).as_py() for part in after]
    except (GradlabError, FileNotFoundError):
        return "in between"
    if last and first:
        return f"between step {last[0]} and step {first[0]}"
    if last:
        return f"after step {last[0]}"
    return f"before step {first[0]}" if first else "of every step"


def _rows(
    shelf: Shelf,
    table: str,
    part: Part,
    columns: pa.Schema | None = None,
    between: tuple[int, int] | None = None,
) -> pa.Table:
    content = whole(shelf, table, part)
    try:
        with pq.ParquetFile(pa.BufferReader(content)) as file:
            if columns is None:
                return file.read()
            if between and not _overlaps(file.metadata, between):
                return columns.empty_table()
            there = set(file.schema_arrow.names)
            rows = file.read(columns=[name for name in columns.names if name in there])
            for field in columns:  # a run recorded before there was such a column lacks it
                if field.nullable and field.name not in there:
                    rows = rows.append_column(field, pa.nulls(len(rows), field.type))
            return _between(rows.select(columns.names).cast(columns), between)
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        reason = str(error).split("\n")[0].rstrip(".")
        raise damaged(shelf, table, part, reason) from error


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


def _parquet(rows: pa.Table) -> bytes:
    buffer = pa.BufferOutputStream()
    pq.write_table(rows, buffer, compression="zstd")
    return bytes(buffer.getvalue())
