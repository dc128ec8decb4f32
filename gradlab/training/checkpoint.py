"""Checkpoints: files from which a run goes on, whole or not there, and known to be what was saved.

    checkpoints/step-00001200.9f3c1a7be0d24c55.safetensors

holds tensors and, in the header's metadata, what else there is as JSON: nothing that is executed as
it is read. The name has how many steps had been taken, and a digest of the bytes. Where processes
hold parts of a model it is a folder (`gradlab.training.sharded`).
"""

import contextlib
import json
import re
import shutil
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from gradlab.errors import GradlabError, GradlabWarning, in_words
from gradlab.parallel.ranks import ALONE, Ranks
from gradlab.parallel.spread import is_spread
from gradlab.runs.files import cannot_write, read_regular, write_whole
from gradlab.runs.parts import digest

FOLDER = "checkpoints"
"""Of a run's folder, where they are."""

KEPT = 2
"""Of a run, the newest: should one turn out to be damaged, there is the one before."""

LEAD = 50
"""Steps before a break that a replay goes back to, unless told otherwise."""

_SHARE = 0.01
"""Of a run's time that its checkpoints take, unless it is told how often to make them."""

_BEFORE_MEASURED = 0.1, 1e8
"""Seconds and bytes a second that the first one is reckoned to take: no fast disk."""

Like: TypeAlias = Callable[[str, torch.Size, torch.dtype], Tensor]
"""Makes the tensor that one of that name, shape and dtype is read into."""

_FORMAT = "2"
_NAME = re.compile(r"step-(\d+)\.([0-9a-f]{16})(?:\.safetensors)?")
_LARGEST = 1 << 42


@dataclass(frozen=True)
class Checkpoint:
    """What a run goes on from.

    Attributes:
        facts: What JSON can hold; numbers that are not finite included.
        tensors: By name; on the CPU, but for those of which each process holds a part.
    """

    facts: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    def to_bytes(self) -> bytes:
        """A safetensors file."""
        metadata = {"format": _FORMAT, "facts": json.dumps(self.facts)}
        return safetensors.torch.save(dict(self.tensors), metadata)

    @classmethod
    def from_bytes(cls, content: bytes) -> "Checkpoint":
        """What `to_bytes` made.

        Raises:
            GradlabError: This is something else.
        """
        try:
            tensors = safetensors.torch.load(content)
            end = 8 + int.from_bytes(content[:8], "little")  # of the header, after its length
            metadata = json.loads(content[8:end])["__metadata__"]
            if metadata["format"] != _FORMAT:
                raise GradlabError("it is of another version of gradlab")
            # As they are read they lie anywhere in the file's bytes: torch's own are aligned.
            return cls(
                json.loads(metadata["facts"]), {name: x.clone() for name, x in tensors.items()}
            )
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise GradlabError(f"it is no checkpoint ({in_words(error)})") from error


class Checkpoints:
    """A run's checkpoints: when the next one is due, and how few are kept.

    Args:
        run: The run's folder.
        every: Steps between two; 0 for none, None for as often as takes 1 % of the time.
        take: Makes one.
        size: Bytes that it will have, about.
        first_step: Number of the next step.
        reach: Steps that the oldest kept lies before the newest, at least, once the run is so long.
        ranks: Processes that train together: all take each checkpoint, the first writes it.
    """

    def __init__(
        self,
        run: Path,
        every: int | None,
        take: Callable[[], Checkpoint],
        *,
        size: int,
        first_step: int,
        reach: int,
        ranks: Ranks = ALONE,
    ) -> None:
        self._run = run
        self._ranks = ranks
        self._reach = reach
        self._held: Path | None = None
        self._has_broken = False
        self._every = every
        self._take = take
        seconds, rate = _BEFORE_MEASURED
        self._takes = seconds + size / rate
        self._last_step, self._last_end = first_step, time.perf_counter()
        self._said = False

    def due(self, step: int) -> bool:
        """Whether to save one before a step."""
        if self._every is not None:
            return self._every > 0 and step - self._last_step >= self._every
        return time.perf_counter() - self._last_end >= self._takes / _SHARE

    def save(self, step: int) -> None:
        """Save one, unless none are wanted; a warning, the first time, if that is not possible.

        Args:
            step: Number of the next step.
        """
        if self._every == 0:
            return
        began = time.perf_counter()
        checkpoint = self._take()
        try:
            self._write(step, checkpoint)
        except (GradlabError, MemoryError) as error:
            if not self._said:
                self._said = True
                warnings.warn(
                    f"no checkpoint could be saved after step {step - 1} ({in_words(error)}): "
                    "training goes on, and can be resumed from the last one at most.",
                    GradlabWarning,
                    stacklevel=2,
                )
        self._last_step, self._last_end = step, time.perf_counter()
        self._takes = self._last_end - began

    def hold(self, broke_at: int) -> None:
        """Keep for good what a replay of a break goes back to: the newest from `LEAD` steps before.

        Args:
            broke_at: The break's step; of a run that goes on after it, always the same.
        """
        if self._has_broken or not self._ranks.is_first:
            return
        self._has_broken = True
        files = found(self._run)
        before = [path for path in files if step_of(path) <= broke_at]
        early = [path for path in before if step_of(path) <= broke_at - LEAD]
        self._held = next(iter([*early, *reversed(before)]), None)

    def end(self) -> None:
        """Remove all but what is held: a run that has finished does not go on. Others stay."""
        if not self._ranks.is_first:
            return
        with contextlib.suppress(OSError, GradlabError):  # they do no harm where they are
            remove([path for path in found(self._run) if path != self._held])
            if self._held is None:
                (self._run / FOLDER).rmdir()

    def _write(self, step: int, checkpoint: Checkpoint) -> None:
        write(self._run, step, checkpoint, self._ranks)
        if not self._ranks.is_first:
            return
        with contextlib.suppress(GradlabError):
            spare = _spare(found(self._run), self._reach)
            remove([path for path in spare if path != self._held])


def write(run: Path, step: int, checkpoint: Checkpoint, ranks: Ranks = ALONE) -> None:
    """Save a checkpoint in a run's folder: the first of several processes, or each its part.

    Raises:
        GradlabError: It cannot be written.
    """
    folder = run / FOLDER
    if any(map(is_spread, checkpoint.tensors.values())):
        from gradlab.training.sharded import write_parts  # which takes a second to import

        write_parts(folder, step, checkpoint.facts, checkpoint.tensors, ranks)
        return
    if not ranks.is_first:
        return
    content = checkpoint.to_bytes()
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    write_whole(folder / f"step-{step:08d}.{digest(content)}.safetensors", content)


def found(run: Path) -> list[Path]:
    """The files of a run's checkpoints, newest first."""
    files = [path for path in (run / FOLDER).glob("step-*") if _NAME.fullmatch(path.name)]
    return sorted(files, key=step_of, reverse=True)


def _spare(files: Sequence[Path], reach: int) -> list[Path]:
    """Those that go: few stay, the newest among them and one from `reach` steps before it.

    Args:
        files: Newest first.
        reach: As of `Checkpoints`.
    """
    kept, spare = [*reversed(files)], []
    while len(kept) > KEPT and step_of(kept[1]) <= step_of(kept[-1]) - reach:
        spare.append(kept.pop(0))
    for before, path, after in list(zip(kept, kept[1:], kept[2:], strict=False))[: 1 - KEPT]:
        if step_of(after) - step_of(before) < reach:
            spare.append(path)
    return spare


def step_of(path: Path) -> int:
    """The step that a checkpoint's run goes on at, by the file's name."""
    named = _NAME.fullmatch(path.name)
    assert named is not None
    return int(named[1])


def remove(paths: Sequence[Path]) -> None:
    """Remove checkpoints.

    Raises:
        GradlabError: One cannot be removed.
    """
    for path in paths:
        try:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise cannot_write(path, error) from error


def read(path: Path, like: Like | None = None) -> Checkpoint:
    """A checkpoint, if it is what was saved.

    Args:
        path: Of its file or folder.
        like: Makes what the tensors of a folder are read into; whole ones unless given.

    Raises:
        GradlabError: It is damaged or has been changed, or cannot be read.
    """
    named = _NAME.fullmatch(path.name)
    if named is None:
        raise GradlabError("its name has no digest of its content")
    if path.is_dir():
        from gradlab.training.sharded import read_facts, read_tensors

        return Checkpoint(read_facts(path, named[2]), read_tensors(path, like))
    try:
        content = read_regular(path, at_most=_LARGEST)
    except FileNotFoundError as error:
        raise GradlabError("it is gone") from error
    if digest(content) != named[2]:
        raise GradlabError("its content is not what was saved")
    return Checkpoint.from_bytes(content)
