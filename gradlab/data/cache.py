"""Token ids and trained tokenizers that were made before, in a folder of the user's."""

import contextlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np

from gradlab.data.tokens import Tokens, chunks, id_type
from gradlab.errors import GradlabError
from gradlab.runs.files import read_regular, write_whole

_LARGEST = 1 << 30


def cache_folder() -> Path:
    """`GRADLAB_CACHE`, or `~/.cache/gradlab`. What is in it can be removed at any time."""
    return Path(os.environ.get("GRADLAB_CACHE") or "~/.cache/gradlab").expanduser()


def cached_file(name: str, make: Callable[[], bytes]) -> bytes:
    """What `make` gives, if need be; a name stands for the same content for good."""
    file = cache_folder() / name
    with contextlib.suppress(OSError, GradlabError):
        return read_regular(file, at_most=_LARGEST)
    content = make()
    _keep(file, content)
    return content


def cached_tokens(name: str, make: Callable[[], Tokens], *, vocabulary: int) -> Tokens:
    """As `cached_file`; ids that were there are memory-mapped.

    What is no array of ids below `vocabulary` is made again, whoever put it there.
    """
    file = cache_folder() / f"{name}.npy"
    with contextlib.suppress(OSError, ValueError, EOFError):
        found: Any = np.load(file, mmap_mode="r", allow_pickle=False)
        if _are_ids(found, vocabulary):
            return cast(Tokens, found)
    tokens, content = make(), io.BytesIO()
    np.save(content, tokens, allow_pickle=False)
    _keep(file, content.getvalue())
    return tokens


def _are_ids(found: Any, vocabulary: int) -> bool:
    if not isinstance(found, np.ndarray) or found.ndim != 1:  # a zip file is none
        return False
    is_own = found.dtype == id_type(vocabulary)
    return is_own and all(part.max() < vocabulary for part in chunks(found))


def _keep(file: Path, content: bytes) -> None:
    """Without it all is made anew each time, no worse."""
    with contextlib.suppress(OSError, GradlabError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, content)
