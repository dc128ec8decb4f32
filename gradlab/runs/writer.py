"""Writes a run directory so that a kill loses at most the rows that were not yet handed over."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gradlab.config import RunConfig
from gradlab.errors import GradlabError
from gradlab.paths import as_path
from gradlab.runs.document import RUN_FILE, closing, opening, to_json
from gradlab.runs.files import cannot_write, write_whole
from gradlab.runs.lock import FolderLock, is_free
from gradlab.runs.parts import FolderShelf
from gradlab.runs.reader import Run, load
from gradlab.runs.rows import RowWriter
from gradlab.runs.schema import arrow_table
from gradlab.runs.verdict import Verdict

LARGEST = 1_000_000
"""Rows of a part at most into which others are merged: half a second's work, some 20 MB."""


class RunWriter:
    """Writes one run into a folder of its own, which no other writer can share.

    Args:
        path: The folder; made with its parents. It must not exist or be empty.
        config: What the run does; None for a loop that is not gradlab's.
        info: More for `run.json`: device, corpus, parameter count, `tables` if others than the
            config says are recorded.

    Raises:
        GradlabError: The folder holds something, is being written by another process, or cannot
            be written. From `write` and `finish`: the disk is full; what was written before
            stays readable.
    """

    def __init__(
        self, path: Path | str, config: RunConfig | None, info: Mapping[str, Any] | None = None
    ) -> None:
        self.path = as_path(path)
        self._document = opening(config, info or {})
        self._rows = RowWriter(FolderShelf(self.path), LARGEST)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise GradlabError(f"{self.path} is a file: choose a folder for the run.") from None
        except OSError as error:
            raise cannot_write(self.path, error) from error
        self._lock = FolderLock(self.path)
        try:
            if not is_free(self.path):
                raise GradlabError(_taken(self.path))
            self._write_document()
        except BaseException:
            self._lock.release()
            raise

    def write(self, table: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """Add rows to a table: one Parquet part, in place whole or not at all."""
        rows = arrow_table(table, columns, self._document["own_tables"])
        if rows.num_rows:
            self._rows.write(table, rows)

    def finish(self, status: str, verdict: Verdict | None = None, **info: Any) -> None:
        """Write how the run ended, and give the folder up, whether or not that could be written.

        Args:
            status: `finished`, `interrupted` or `error`.
            verdict: How it ended, if that is known.
            info: More for `run.json`.
        """
        try:
            self._document = closing(self._document, status, verdict, self._rows.writes, info)
            self._write_document()
        finally:
            self._lock.release()

    def run(self) -> Run:
        """What has been written so far, read back."""
        return load(self.path)

    def _write_document(self) -> None:
        write_whole(self.path / RUN_FILE, to_json(self._document))


def _taken(folder: Path) -> str:
    """The sentence for a folder that holds something already."""
    if (folder / RUN_FILE).exists():
        return f"{folder} holds a run already: choose another folder, or remove that one."
    return f"{folder} is not empty: choose another folder, or a new one in it."
