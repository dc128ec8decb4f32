"""One writer a folder: an advisory lock that the system drops when its process dies."""

import contextlib
import errno
import os
import sys
from pathlib import Path

from filelock import FileLock, Timeout

from gradlab.errors import GradlabError
from gradlab.runs.files import cannot_write, is_left_over

if sys.platform != "win32":
    import fcntl

LOCK_NAME = ".lock"

_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
"""What a file system without locks answers, as NFS without its lock daemon: nothing is locked."""

_PATIENCE = 0.2
"""Seconds that a writer tries: one that looks whether the folder is held holds it for a moment."""


def is_free(folder: Path) -> bool:
    """Whether a folder holds nothing but what a process that was killed there may have left."""
    return all(e.name == LOCK_NAME or is_left_over(e.name) for e in folder.iterdir())


class FolderLock:
    """An exclusive lock on an existing folder, held until `release` or the process's end.

    It is on a hidden file in the folder; a symbolic link of that name is not followed.

    Raises:
        GradlabError: Another writer holds the folder, or it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK_NAME
        self._lock = FileLock(self._path, thread_local=False)
        try:
            folder.stat()  # filelock would make it
            self._lock.acquire(timeout=_PATIENCE, poll_interval=0.02)
        except Timeout:
            raise GradlabError(
                f"another process is writing {folder}: wait for it to end or choose another folder."
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise cannot_write(folder, error) from error

    def release(self) -> None:
        """Remove the lock; harmless when it is released already."""
        if not self._lock.is_locked:
            return
        # Who has opened the file and not locked it yet sees that it is gone, and makes another.
        with contextlib.suppress(OSError):  # Windows keeps an open file, which is harmless
            self._path.unlink()
        with contextlib.suppress(OSError):
            self._lock.release()


def is_held(folder: Path) -> bool:
    """Whether a process holds a folder; true too where the system cannot tell."""
    if sys.platform == "win32":
        return True
    try:
        descriptor = os.open(folder / LOCK_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        return error.errno not in (errno.ENOENT, errno.ELOOP)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:  # held, or a file system without locks
        return True
    finally:
        os.close(descriptor)
    return False
