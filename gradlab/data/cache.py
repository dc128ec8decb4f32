"""Token ids and trained tokenizers that were made before, in a folder of the user's."""

import contextlib
import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gradlab.data.tokens import Tokens
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


def cached_tokens(name: str, make: Callable[[], Tokens]) -> Tokens:
    """As `cached_file`; ids that were there are memory-mapped."""
    file = cache_folder() / f"{name}.npy"
    with contextlib.suppress(OSError, ValueError, EOFError):
        found: Tokens = np.load(file, mmap_mode="r", allow_pickle=False)
        return found
    tokens, content = make(), io.BytesIO()
    np.save(content, tokens, allow_pickle=False)
    _keep(file, content.getvalue())
    return tokens


def _keep(file: Path, content: bytes) -> None:
    """Without it all is made anew each time, no worse."""
    with contextlib.suppress(OSError, GradlabError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, content)
