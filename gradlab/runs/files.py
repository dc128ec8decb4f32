"""Files that are there whole or not at all, and the sentence when the disk says no."""

import contextlib
import errno
import os
import re
import shutil
import stat
import threading
from collections.abc import Iterable
from pathlib import Path

from gradlab.errors import GradlabError

_BINARY = getattr(os, "O_BINARY", 0)

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


_TEMPORARY = re.compile(r"\..+\.\d+\.tmp")


def is_left_over(name: str) -> bool:
    """Whether a file is one that a killed `write_whole` left, or a folder likewise."""
    return _TEMPORARY.fullmatch(name) is not None


def write_whole(path: Path, content: bytes | Iterable[bytes]) -> None:
    """Write a file under a hidden temporary name beside it, sync it, and rename it into place.

    A process killed at any moment leaves the old file or the new one, never a part of one.

    Args:
        path: Of the file.
        content: All of it, or one part after the other.

    Raises:
        GradlabError: The disk is full or the folder cannot be written; the old file, if there
            was one, is untouched.
    """
    # Two threads may write one file, as of a cache.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.writelines([content] if isinstance(content, bytes) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise cannot_write(path, error) from error
        raise


def make_folder(path: Path) -> None:
    """Make a folder, with those above it, if it is not there.

    Raises:
        GradlabError: It is a file, or cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise GradlabError(f"{path} is a file: choose a folder.") from None
    except OSError as error:
        raise cannot_write(path, error) from error


def remove_left_over(folder: Path) -> None:
    """Remove what writers that were killed left in a folder and those in it; none may be at work.

    Raises:
        GradlabError: The folder cannot be written.
    """
    try:
        for path in [*folder.glob(".*.tmp"), *folder.glob("*/.*.tmp")]:
            if is_left_over(path.name):
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error


def read_regular(path: Path, *, at_most: int) -> bytes:
    """The content of a regular file, never of a device or a pipe, which may have no end.

    Raises:
        FileNotFoundError, NotADirectoryError: There is none.
        GradlabError: It is something else, is larger than `at_most` bytes, or cannot be read.
    """
    try:
        # A pipe that nobody writes to would let its opening wait.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _BINARY)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise GradlabError(f"{path} cannot be read: it is {_kind(found.st_mode)}.")
            if found.st_size > at_most:
                raise GradlabError(
                    f"{path} cannot be read: it has more than {at_most:,} bytes, so it is "
                    "something else than its name says."
                )
            with open(descriptor, "rb", closefd=False) as file:
                return file.read(found.st_size)
        finally:
            os.close(descriptor)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise GradlabError(f"{path} cannot be read: {error.strerror}.") from error
    except MemoryError:
        raise GradlabError(f"{path} cannot be read: it does not fit into memory.") from None


def _kind(mode: int) -> str:
    """What a file is that is no regular one."""
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def cannot_write(path: Path, error: OSError) -> GradlabError:
    """The sentence for a write that failed."""
    if error.errno in _FULL:
        return GradlabError(
            f"there is no space left to write {path}: free some or choose another folder; "
            "what was written before is whole and readable."
        )
    if isinstance(error, FileExistsError | NotADirectoryError):
        return GradlabError(f"{path} is a file, or below one: choose another folder.")
    return GradlabError(
        f"{path} cannot be written ({error.strerror}): choose another folder or change its "
        "permissions."
    )
