"""Token ids and trained tokenizers that were made before, in a folder of the user's."""

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gradlab.data.tokens import Tokens, id_type
from gradlab.errors import GradlabError
from gradlab.runs.files import read_regular, write_whole

_LARGEST = 1 << 30

_SEAL = hashlib.sha256().digest_size
"""Bytes at a file's end that say whether the content before them is whole, and of this name."""


_UNUSABLE = (OSError, RuntimeError, ValueError, GradlabError)
"""What a cache raises that is not there or cannot be read: there is no home, a file is empty."""


def cache_folder() -> Path:
    """`GRADLAB_CACHE`, or `~/.cache/gradlab`. What is in it can be removed at any time.

    Raises:
        RuntimeError: There is no such home folder.
    """
    return Path(os.environ.get("GRADLAB_CACHE") or "~/.cache/gradlab").expanduser()


def cached_file(name: str, make: Callable[[], bytes]) -> bytes:
    """What `make` gives, if need be; a name stands for the same content for good.

    What was damaged or cut since it was kept is made again.
    """
    with contextlib.suppress(*_UNUSABLE):
        found = read_regular(cache_folder() / name, at_most=_LARGEST)
        if _is_whole(name, memoryview(found)):
            return found[:-_SEAL]
    content = make()
    _keep(name, content)
    return content


def cached_tokens(name: str, make: Callable[[], Tokens], *, vocabulary: int) -> Tokens:
    """As `cached_file`; ids that were there are memory-mapped, as the type of the vocabulary's."""
    dtype = id_type(vocabulary)
    with contextlib.suppress(*_UNUSABLE):
        file = cache_folder() / name
        # A pipe that nobody writes to would let its opening wait.
        if file.is_file() and _is_whole(name, (found := np.memmap(file, np.uint8, "r")).data):
            return found[:-_SEAL].view(dtype)
    tokens = make()
    _keep(name, tokens.astype(dtype, copy=False).tobytes())
    return tokens


def _is_whole(name: str, found: memoryview) -> bool:
    return len(found) >= _SEAL and _seal(name, found[:-_SEAL]) == bytes(found[-_SEAL:])


def _seal(name: str, content: bytes | memoryview) -> bytes:
    digest = hashlib.sha256(f"{name}\0".encode())
    digest.update(content)
    return digest.digest()


def _keep(name: str, content: bytes) -> None:
    """Without it all is made anew each time, no worse."""
    with contextlib.suppress(*_UNUSABLE):
        file = cache_folder() / name
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, [content, _seal(name, content)])
