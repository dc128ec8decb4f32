"""A table's rows lie in Parquet parts: what their names say, which of them count, where they are.

    part-000007.5f0e2b1c9a3d4e6f.parquet             what was written eighth
    part-000000-000009.0b9d1e2f3a4c5d6e.parquet      the first ten writes in one

A name has the numbers of the writes that the part holds, so that one that is missing is noticed,
and a digest of its bytes, so that one that has changed is. Parts of older runs have no digest.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from gradlab.errors import GradlabError
from gradlab.runs.files import cannot_write, read_regular, write_whole

_NAME = re.compile(r"part-(\d+)(?:-(\d+))?(?:\.([0-9a-f]{16}))?\.parquet")

_LARGEST = 1 << 32
"""Bytes of a part that are read at most; those that gradlab merges have some 20 MB."""


@dataclass(frozen=True)
class Part:
    """The name of a part.

    Attributes:
        first: Number of the first write that it holds, from 0.
        last: Number of the last.
        digest: Of its bytes; None in older runs.
    """

    first: int
    last: int
    digest: str | None

    @classmethod
    def of(cls, first: int, last: int, content: bytes) -> Self:
        """The name for a part's content."""
        return cls(first, last, digest(content))

    @classmethod
    def parse(cls, name: str) -> Self | None:
        """What a name says; None if it is no part's, as a writer's temporary file's."""
        found = _NAME.fullmatch(name)
        if found is None:
            return None
        first, last, told = found.groups()
        return cls(int(first), int(last or first), told)

    def __str__(self) -> str:
        numbers = f"{self.first:06d}"
        if self.last > self.first:
            numbers += f"-{self.last:06d}"
        return f"part-{numbers}{'' if self.digest is None else f'.{self.digest}'}.parquet"


def digest(content: bytes) -> str:
    """BLAKE2b of a part's bytes, 64 bits as 16 hexadecimal digits."""
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def that_count(parts: Iterable[Part]) -> list[Part]:
    """The parts to read, in the order they were written, none of whose rows another has too.

    A part is merged with others before these are removed, and a kill may come between.
    """
    chosen: list[Part] = []
    for part in sorted(parts, key=lambda part: (part.first, -part.last)):
        if not chosen or part.first > chosen[-1].last:
            chosen.append(part)
    return chosen


def gaps(chosen: Sequence[Part], writes: int | None) -> list[tuple[int, int]]:
    """First and last number of the writes that are missing between parts, and after them.

    Args:
        chosen: The parts that count, in order.
        writes: How many there were; None if that is not known.
    """
    starts = [0, *(part.last + 1 for part in chosen)]
    ends = [part.first for part in chosen] + ([] if writes is None else [writes])
    return [(a, b - 1) for a, b in zip(starts, ends, strict=False) if a < b]


class Shelf(Protocol):
    """Where the parts of a run are kept."""

    def tables(self) -> Sequence[str]:
        """Tables that have parts."""
        ...

    def parts(self, table: str) -> Sequence[Part]:
        """The parts of a table, in any order."""
        ...

    def read(self, table: str, part: Part) -> bytes:
        """A part's content.

        Raises:
            FileNotFoundError: It is gone.
            GradlabError: It cannot be read.
        """
        ...

    def put(self, table: str, part: Part, content: bytes) -> None:
        """Keep a part, whole or not at all.

        Raises:
            GradlabError: It cannot be written.
        """
        ...

    def remove(self, table: str, parts: Iterable[Part]) -> None:
        """Remove parts.

        Raises:
            GradlabError: One cannot be removed.
        """
        ...

    def place(self, table: str, part: Part | None = None) -> str:
        """A table's place, or a part's, for a sentence."""
        ...


@dataclass(frozen=True)
class FolderShelf:
    """Parts as files, `<run>/<table>/<name>`."""

    run: Path

    def tables(self) -> list[str]:
        """Tables that have parts."""
        files = self.run.glob("*/part-*.parquet")
        return sorted({file.parent.name for file in files if Part.parse(file.name)})

    def parts(self, table: str) -> list[Part]:
        """The parts of a table; what has another name is none."""
        names = (file.name for file in (self.run / table).glob("part-*.parquet"))
        return [part for name in names if (part := Part.parse(name))]

    def read(self, table: str, part: Part) -> bytes:
        """A part's content."""
        return read_regular(self._file(table, part), at_most=_LARGEST)

    def put(self, table: str, part: Part, content: bytes) -> None:
        """Write a part whole; its folder is made."""
        file = self._file(table, part)
        try:
            file.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise cannot_write(file.parent, error) from error
        write_whole(file, content)

    def remove(self, table: str, parts: Iterable[Part]) -> None:
        """Remove files, once what replaces them is sure to outlive a power cut."""
        try:
            _sync_folder(self.run / table)
            for part in parts:
                self._file(table, part).unlink(missing_ok=True)
        except OSError as error:
            raise cannot_write(self.run / table, error) from error

    def place(self, table: str, part: Part | None = None) -> str:
        """A table's folder, or a part's file."""
        return str(self.run / table if part is None else self._file(table, part))

    def _file(self, table: str, part: Part) -> Path:
        return self.run / table / str(part)


class MemoryShelf:
    """Parts in memory, compressed as on disk: some 17 bytes a row, where Arrow takes 80."""

    def __init__(self, parts: Mapping[str, Mapping[Part, bytes]] | None = None) -> None:
        self._parts = {table: dict(held) for table, held in (parts or {}).items()}

    def snapshot(self) -> "MemoryShelf":
        """What is here now, whatever comes later."""
        return MemoryShelf(self._parts)

    def tables(self) -> list[str]:
        """Tables that have parts."""
        return list(self._parts)

    def parts(self, table: str) -> list[Part]:
        """The parts of a table."""
        return list(self._parts.get(table, ()))

    def read(self, table: str, part: Part) -> bytes:
        """A part's content."""
        return self._parts[table][part]

    def put(self, table: str, part: Part, content: bytes) -> None:
        """Keep a part."""
        self._parts.setdefault(table, {})[part] = content

    def remove(self, table: str, parts: Iterable[Part]) -> None:
        """Forget parts."""
        for part in parts:
            del self._parts[table][part]

    def place(self, table: str, part: Part | None = None) -> str:
        """The table's name: nobody can go and look."""
        return table if part is None else f"{table} in memory ({part})"


def whole(shelf: Shelf, table: str, part: Part) -> bytes:
    """A part's content, if it is what was written.

    Raises:
        FileNotFoundError: It is gone.
        GradlabError: It has changed since, or cannot be read.
    """
    content = shelf.read(table, part)
    if part.digest is not None and digest(content) != part.digest:
        raise damaged(shelf, table, part, "its content is not what was written")
    return content


def damaged(shelf: Shelf, table: str, part: Part, reason: str) -> GradlabError:
    """The sentence for a part that cannot be trusted."""
    return GradlabError(
        f"{shelf.place(table, part)} is damaged and cannot be read ({reason}): move it away to "
        f"read the rest of {table}."
    )


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
