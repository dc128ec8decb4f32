"""The folder of bad steps: a file each, known to be what was kept, and an index that one can read.

    crash/bundle.json
    crash/step-00000037.9f3c1a7be0d24c55.safetensors

The files are those of checkpoints: tensors, and in the metadata all else as JSON. A name has the
step and a digest of the bytes.
"""

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gradlab.errors import GradlabError
from gradlab.runs.files import make_folder, read_regular, write_whole
from gradlab.runs.lock import FolderLock, is_free
from gradlab.runs.parts import digest
from gradlab.training.checkpoint import Checkpoint, read

INDEX = "bundle.json"

_FORMAT = "1"
_LARGEST_INDEX = 1 << 24


class KeptSteps:
    """Writes steps into a folder of its own; one without any is not left behind.

    Args:
        path: The folder; made with its parents. It must not exist or be empty.
        most: Steps that are there at most, the newest.

    Raises:
        GradlabError: The folder holds something, is being written by another process, or cannot be
            written.
    """

    def __init__(self, path: Path, most: int) -> None:
        self.path = path
        self._most = most
        self._kept: list[dict[str, Any]] = []
        make_folder(path)
        self._lock = FolderLock(path)
        try:
            if not is_free(path):
                what = "has a kept step already" if is_kept(path) else "is not empty"
                raise GradlabError(f"{path} {what}: choose another folder or remove it first.")
        except BaseException:
            self._lock.release()
            raise

    @property
    def steps(self) -> list[int]:
        """Those that are there."""
        return [one["step"] for one in self._kept]

    def add(self, step: int, content: Checkpoint, told: Mapping[str, Any]) -> None:
        """Write a step, whole or not at all, and then remove those that are too many.

        Args:
            step: Its number.
            content: All that is kept of it.
            told: What a person may want to know of it.

        Raises:
            GradlabError: The disk is full, or the folder cannot be written.
        """
        whole = content.to_bytes()
        name = f"step-{step:08d}.{digest(whole)}.safetensors"
        write_whole(self.path / name, whole)
        entry = {"step": step, "file": name, "bytes": len(whole), **told}
        kept = [*self._kept, entry][-self._most :]
        try:
            self._write_index(kept)
        except BaseException:
            self._remove(name)
            raise
        for old in self._kept[: len(self._kept) + 1 - len(kept)]:
            self._remove(old["file"])
        self._kept = kept

    def tell_of_newest(self, told: Mapping[str, Any]) -> None:
        """Add to what is told of the step that was written last.

        Raises:
            GradlabError: The disk is full, or the folder cannot be written.
        """
        kept = [*self._kept[:-1], {**self._kept[-1], **told}]
        self._write_index(kept)
        self._kept = kept

    def _write_index(self, kept: Sequence[Mapping[str, Any]]) -> None:
        document = {"format": _FORMAT, "steps": kept}
        write_whole(self.path / INDEX, json.dumps(document, indent=1).encode())

    def _remove(self, name: str) -> None:
        with contextlib.suppress(OSError):
            (self.path / name).unlink()

    def close(self) -> None:
        """Give the folder up."""
        self._lock.release()
        with contextlib.suppress(OSError):  # it is not empty
            self.path.rmdir()


def is_kept(path: Path) -> bool:
    """Whether a folder is one of kept steps."""
    return (path / INDEX).is_file()


def read_step(path: Path, step: int | None) -> Checkpoint:
    """A kept step, if it is what was kept; among its facts, `stepped` of the index, or None.

    Args:
        path: The folder.
        step: Its number; None for the newest.

    Raises:
        GradlabError: It is not there, damaged, or of another version of gradlab.
    """
    entries = _entries(path)
    if step is not None and step not in entries:
        raise GradlabError(
            f"step {step} is not kept in {path}: it has {', '.join(map(str, entries))}."
        )
    entry = entries[max(entries) if step is None else step]
    file = path / Path(entry["file"]).name
    try:
        kept = read(file)
        return replace(kept, facts={**kept.facts, "stepped": entry.get("stepped")})
    except GradlabError as error:
        reason = str(error).rstrip(".")
        raise GradlabError(f"{file} cannot be used: {reason}.") from error


def _entries(path: Path) -> dict[int, dict[str, Any]]:
    """What the index has of the kept steps, the first one first."""
    try:
        document = json.loads(read_regular(path / INDEX, at_most=_LARGEST_INDEX))
        if document["format"] != _FORMAT:
            raise GradlabError(f"{path} was kept by another version of gradlab: use that one.")
        found = {int(one["step"]): dict(one, file=str(one["file"])) for one in document["steps"]}
    except (FileNotFoundError, NotADirectoryError):
        raise GradlabError(
            f"{path} has no kept step: no step of the loop was bad, or this is not what "
            "attach was given as keep=."
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise GradlabError(f"{path / INDEX} is damaged: nothing can be read from it.") from error
    if not found:
        raise GradlabError(f"{path / INDEX} names no step.")
    return found
