"""Writes a run directory so that a kill loses at most the rows that were not yet handed over."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gradlab.config import RunConfig
from gradlab.errors import GradlabError
from gradlab.paths import as_path
from gradlab.runs.document import RUN_FILE, closing, opening, to_json
from gradlab.runs.files import make_folder, remove_left_over, write_whole
from gradlab.runs.lock import FolderLock, is_free
from gradlab.runs.parts import FolderShelf
from gradlab.runs.reader import Run, load, run_of_before
from gradlab.runs.rows import Mark, RowWriter
from gradlab.runs.schema import arrow_table
from gradlab.runs.study import to_go_on
from gradlab.runs.verdict import Verdict

LARGEST = 1_000_000
"""Rows of a part at most into which others are merged: half a second's work, some 20 MB."""


class RunWriter:
    """Writes one run into a folder of its own, which no other writer can share.

    Args:
        path: The folder; made with its parents. It must not exist or be empty, unless `resume`.
        config: What the run does; None for a loop that is not gradlab's.
        info: More for `run.json`: device, corpus, parameter count, `tables` if others than the
            config says are recorded.
        resume: Go on with a run of this config that lies in the folder and has not finished, if
            there is one. `go_back` is then to be called before anything is written.

    Raises:
        GradlabError: The folder holds something else, is being written by another process, or
            cannot be written. From `write` and `finish`: the disk is full; what was written before
            stays readable.
    """

    def __init__(
        self,
        path: Path | str,
        config: RunConfig | None,
        info: Mapping[str, Any] | None = None,
        *,
        resume: bool = False,
    ) -> None:
        self.path = as_path(path)
        self._document = opening(config, info or {})
        self._rows = RowWriter(FolderShelf(self.path), LARGEST)
        self._is_ours = not self.path.exists()
        make_folder(self.path)
        self._lock = FolderLock(self.path)
        try:
            if resume and config is not None and self._take_over(config):
                return
            if not is_free(self.path):
                raise GradlabError(_taken(self.path, is_ours=config is not None))
            self._write_document()
        except BaseException:
            self._lock.release()
            raise

    def write(self, table: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """Add rows to a table: one Parquet part, in place whole or not at all."""
        rows = arrow_table(table, columns, self._document["own_tables"])
        if rows.num_rows:
            self._rows.write(table, rows)

    def mark(self) -> dict[str, list[int]]:
        """How much has been written so far, to `go_back` to."""
        return self._rows.mark()

    def go_back(self, mark: Mark) -> None:
        """Remove what was written after a mark of the run that goes on here, which is running then.

        Raises:
            GradlabError: Rows from before it are damaged or gone, or the folder cannot be written.
        """
        self._rows.go_back(mark)
        self._write_document()

    def give_up(self) -> None:
        """Leave the folder as it is, to others."""
        self._lock.release()

    def discard(self) -> None:
        """Remove a run that never began, and its folder if that was made for it."""
        with contextlib.suppress(OSError):
            (self.path / RUN_FILE).unlink()
        self._lock.release()
        if self._is_ours:
            with contextlib.suppress(OSError):
                self.path.rmdir()

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

    def _take_over(self, config: RunConfig) -> bool:
        """Go on with the run in the folder, if there is one; its writer is gone, as we lock it."""
        before = run_of_before(self.path, config)
        if before is None:
            return False
        if before.status == "finished":
            raise GradlabError(f"{self.path} has finished meanwhile: there is nothing to resume.")
        if before.info["corpus"]["sha256"] != self._document["corpus"]["sha256"]:
            raise GradlabError(
                f"{self.path} was begun on another text than {config.data.corpus} is now: choose "
                "another folder."
            )
        remove_left_over(self.path)
        self._document["started"] = before.info.get("started")
        return True

    def _write_document(self) -> None:
        write_whole(self.path / RUN_FILE, to_json(self._document))


def _taken(folder: Path, is_ours: bool) -> str:
    """The sentence for a folder that holds something already; a run of ours can be gone on with."""
    if not (folder / RUN_FILE).exists():
        return f"{folder} is not empty: choose another folder, or a new one in it."
    way_out = "remove that one"
    run = None
    with contextlib.suppress(GradlabError):  # it may be nobody's, or damaged
        run = load(folder)
    if is_ours and run is not None and run.info["config"] is not None:
        if run.status == "finished":
            return f"{folder} holds a run that has finished: choose another folder."
        way_out = f"go on with it by {to_go_on(folder)} (resume=True in Python)"
    return f"{folder} holds a run already: choose another folder, or {way_out}."
