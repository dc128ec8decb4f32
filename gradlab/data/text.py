"""Text files and folders of them, checked to be UTF-8."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gradlab.errors import GradlabError
from gradlab.paths import as_path
from gradlab.runs.files import read_regular

_LARGEST = 1 << 36
"""Bytes of a text that are read at most; a larger one is better prepared as tokens."""


def text_documents(name: str) -> list[bytes]:
    """The bytes of a text file, or of a folder's `*.txt` files, each checked to be UTF-8.

    A folder is searched to any depth, in order of the path inside it; hidden files and folders
    are left out.

    Raises:
        GradlabError: Nothing is there, nothing is in it, or it is not UTF-8.
    """
    path = as_path(name)
    if not path.exists():
        raise GradlabError(
            f"there is no corpus {name!r}: give python-stdlib, a text file or folder, a .bin "
            "token file or folder, or hf:NAME."
        )
    files = _text_files(path) if path.is_dir() else [path]
    documents = [_read(file) for file in files]
    if not any(documents):
        raise GradlabError(f"the text {name} is empty: give a file that holds text.")
    return documents


def _text_files(folder: Path) -> list[Path]:
    inside = {file: file.relative_to(folder) for file in folder.rglob("*.txt") if file.is_file()}
    files = sorted(
        (file for file, path in inside.items() if not any(p.startswith(".") for p in path.parts)),
        key=lambda file: inside[file].parts,
    )
    if not files:
        raise GradlabError(
            f"the folder {folder} holds neither *.txt files nor train.bin with val.bin: "
            "name a text file, or put one of them there."
        )
    return files


def _read(file: Path) -> bytes:
    try:
        content = read_regular(file, at_most=_LARGEST)
    except (FileNotFoundError, NotADirectoryError):
        raise GradlabError(f"the text {file} cannot be read: it is gone.") from None
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise GradlabError(
            f"{file} is not UTF-8 text: byte {error.start} is 0x{content[error.start]:02x} "
            f"({error.reason}); convert it to UTF-8 first."
        ) from None
    return content


def byte_tokens(documents: Sequence[bytes]) -> NDArray[np.uint8]:
    """Documents joined by newlines, as ids 0 … 255."""
    return np.frombuffer(b"\n".join(documents), dtype=np.uint8)
