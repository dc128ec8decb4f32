"""Token files as nanoGPT prepares them: raw little-endian uint16 ids, memory-mapped.

A `meta.pkl` beside them is never opened: unpickling runs whatever code the file holds.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gradlab.errors import GradlabError
from gradlab.paths import as_path

SUFFIX = ".bin"
PARTS = ("train.bin", "val.bin")


def is_token_corpus(name: str) -> bool:
    """Whether a corpus name means token files: `*.bin`, or a folder that holds one of the two."""
    path = as_path(name)
    return path.suffix == SUFFIX or any((path / part).exists() for part in PARTS)


def load_token_files(path: Path) -> tuple[NDArray[np.uint16], ...]:
    """One part of a `.bin` file, or the two of a folder with `train.bin` and `val.bin`.

    Raises:
        GradlabError: A file is missing, empty, or its length is odd.
    """
    if path.is_dir():
        return tuple(_map(path / part) for part in PARTS)
    return (_map(path),)


def _map(file: Path) -> NDArray[np.uint16]:
    try:
        size = file.stat().st_size
        if size == 0:
            raise GradlabError(f"the token file {file} is empty.")
        if size % 2:
            raise GradlabError(
                f"the token file {file} has an odd length of {size:,} bytes: uint16 tokens take "
                "two bytes each, so it is cut off or not a token file."
            )
        return np.memmap(file, dtype="<u2", mode="r")
    except OSError as error:
        raise GradlabError(f"the token file {file} cannot be read: {error.strerror}.") from None
