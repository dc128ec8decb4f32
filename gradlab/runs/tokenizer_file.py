"""The tokenizer in a run's folder, which made the ids of the text that it was trained on."""

import hashlib
from pathlib import Path

from gradlab.errors import GradlabError
from gradlab.runs.files import read_regular, write_whole
from gradlab.runs.reader import Run

TOKENIZER_FILE = "tokenizer.json"

_LARGEST = 1 << 30


def keep_tokenizer(folder: Path, content: bytes | None) -> None:
    """Write it, as the package `tokenizers` has it; None of bytes and token files.

    Raises:
        GradlabError: The folder cannot be written.
    """
    if content is not None:
        write_whole(folder / TOKENIZER_FILE, content)


def kept_tokenizer(run: Run) -> bytes | None:
    """What lies in a run's folder; None if there is none, as of a run on bytes or in memory.

    Raises:
        GradlabError: It is not the one that the run was begun with, or cannot be read.
    """
    digest = (run.info.get("corpus") or {}).get("tokenizer_sha256")
    if run.path is None or digest is None:
        return None
    file = run.path / TOKENIZER_FILE
    try:
        content = read_regular(file, at_most=_LARGEST)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if hashlib.sha256(content).hexdigest() != digest:
        raise GradlabError(
            f"{file} is not the tokenizer that the run was begun with: put that one back, or "
            "remove the file to have it made again."
        )
    return content
