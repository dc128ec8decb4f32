"""Files that are there whole or not at all, and the sentence when the disk says no."""

import contextlib
import errno
import os
from pathlib import Path

from gradlab.errors import GradlabError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a hidden temporary name beside it, sync it, and rename it into place.

    A process killed at any moment leaves the old file or the new one, never a part of one.

    Raises:
        GradlabError: The disk is full or the folder cannot be written; the old file, if there
            was one, is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise cannot_write(path, error) from error
        raise


def cannot_write(path: Path, error: OSError) -> GradlabError:
    """The sentence for a write that failed."""
    if error.errno in _FULL:
        return GradlabError(
            f"there is no space left to write {path}: free some or choose another folder; "
            "what was written before is whole and readable."
        )
    return GradlabError(
        f"{path} cannot be written ({error.strerror}): choose another folder or change its "
        "permissions."
    )
