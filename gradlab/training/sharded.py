"""Checkpoints of which each process writes the part that it holds, and that others read anew.

    checkpoints/step-00001200.9f3c1a7be0d24c55/facts.json
                                               shard-00001-model-00001-of-00001.safetensors
                                               shard-00002-…

By torch.distributed.checkpoint's safetensors classes: a file a process, whose header says where in
the whole its parts lie, so that any number of processes can read them. Nothing is executed as they
are read; its usual reader would unpickle. `facts.json` has what else there is and a digest of each
file, and the folder's name a digest of that.
"""

import contextlib
import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from gradlab.errors import GradlabError, in_words
from gradlab.parallel.ranks import Ranks
from gradlab.runs.files import cannot_write, read_regular, write_whole
from gradlab.runs.parts import digest

FACTS = "facts.json"

_FORMAT = "2"
_LARGEST_FACTS = 1 << 30


def write_parts(
    folder: Path, step: int, facts: Mapping[str, Any], tensors: Mapping[str, Tensor], ranks: Ranks
) -> None:
    """Write a checkpoint, each process its part. A collective call.

    Args:
        folder: Of the checkpoints; every process sees the same.
        step: Number of the next step.
        facts: Of the first process.
        tensors: Spread, or the same in each process.
        ranks: The processes.

    Raises:
        GradlabError: It cannot be written; in every process.
    """
    parts = folder / f".step-{step:08d}.0.tmp"  # as what a killed writer may leave is named
    if ranks.is_first:
        shutil.rmtree(parts, ignore_errors=True)
    ranks.from_first(None)
    problem, own = "", torch.zeros(16, dtype=torch.uint8, device="cpu")
    try:
        save(
            dict(tensors),
            storage_writer=HuggingFaceStorageWriter(str(parts), save_distributed=True),
        )
        with contextlib.suppress(OSError):  # the first process then misses its digest
            for path in parts.glob(f"shard-{ranks.rank + 1:05d}-*"):
                own = torch.frombuffer(bytearray(_digest(path).encode()), dtype=torch.uint8)
    except CheckpointException as error:  # in every process, as one has failed
        cause = next(iter(error.failures.values()))[0]
        problem = str(cannot_write(parts, cause) if isinstance(cause, OSError) else cause)
    digests = [bytes(row.tolist()).decode() for row in ranks.stacked(own)]
    if ranks.is_first and not problem:
        problem = _put_in_place(parts, folder, step, facts, digests)
    if problem := ranks.from_first(problem):
        if ranks.is_first:
            shutil.rmtree(parts, ignore_errors=True)
        raise GradlabError(problem)


def _put_in_place(
    parts: Path, folder: Path, step: int, facts: Mapping[str, Any], digests: Sequence[str]
) -> str:
    """Name a folder by its content, once that is whole; a sentence if it cannot be done."""
    names = sorted(path.name for path in parts.glob("shard-*"))
    files = {name: digests[int(name.split("-")[1]) - 1] for name in names}
    if unread := [name for name, own in files.items() if not own.strip("\0")]:
        return f"{parts / unread[0]} cannot be read again."
    content = json.dumps({"format": _FORMAT, "facts": facts, "files": files}).encode()
    try:
        write_whole(parts / FACTS, content)
        parts.rename(folder / f"step-{step:08d}.{digest(content)}")
    except GradlabError as error:
        return str(error)
    except OSError as error:
        return str(cannot_write(folder, error))
    return ""


def read_facts(path: Path, expected: str) -> Mapping[str, Any]:
    """The facts of a checkpoint, if all of it is what was saved.

    Args:
        path: Its folder.
        expected: The digest in that folder's name.

    Raises:
        GradlabError: It is damaged or has been changed, or cannot be read.
    """
    try:
        content = read_regular(path / FACTS, at_most=_LARGEST_FACTS)
        if digest(content) != expected:
            raise GradlabError("its content is not what was saved")
        told = json.loads(content)
        if told["format"] != _FORMAT:
            raise GradlabError("it is of another version of gradlab")
        for name, own in told["files"].items():
            if _digest(path / name) != own:
                raise GradlabError(f"the content of {name} is not what was saved")
    except OSError as error:
        raise GradlabError(f"it is not whole ({error.strerror})") from error
    if {*told["files"]} != {part.name for part in path.glob("*.safetensors")}:
        raise GradlabError("there are files in it that were not saved with it")
    facts: Mapping[str, Any] = told["facts"]
    return facts


def read_tensors(
    path: Path, like: Callable[[str, torch.Size, torch.dtype], Tensor] | None = None
) -> dict[str, Tensor]:
    """The tensors of a checkpoint, put together from the parts that there are. No collective call.

    Args:
        path: Its folder, of which `read_facts` has approved.
        like: Makes what each is read into; whole tensors on the CPU unless given.

    Raises:
        GradlabError: They cannot be read.
    """
    make = like or (lambda _, shape, dtype: torch.empty(shape, dtype=dtype, device="cpu"))
    reader = HuggingFaceStorageReader(str(path))
    try:
        saved = reader.read_metadata().state_dict_metadata
        tensors = {
            name: make(name, x.size, x.properties.dtype)
            for name, x in saved.items()
            if isinstance(x, TensorStorageMetadata)  # such files hold nothing else
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that there are no other processes
            load(tensors, storage_reader=reader, no_dist=True)
    except (CheckpointException, SafetensorError, OSError, ValueError, KeyError) as error:
        raise GradlabError(f"it cannot be read ({in_words(error)})") from error
    return tensors


def _digest(path: Path) -> str:
    """As of `gradlab.runs.parts.digest`, of a file that memory may not hold."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()
