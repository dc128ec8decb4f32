"""One writer a folder: an advisory lock that the system drops when its process dies."""

import contextlib
import os
import sys
from pathlib import Path

from gradlab.errors import GradlabError
from gradlab.runs.files import cannot_write

if sys.platform != "win32":
    import fcntl

LOCK_NAME = ".lock"


class FolderLock:
    """An exclusive lock on an existing folder, held until `release` or the process's end.

    It is `flock` on a hidden file in the folder. Where the platform or the file system has none,
    nothing is locked.

    Raises:
        GradlabError: Another writer holds the folder, or it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK_NAME
        self._descriptor: int | None = None
        while self._descriptor is None:
            descriptor = self._open()
            # The last holder may have removed the file between our opening and locking it.
            if _same_file(descriptor, self._path):
                self._descriptor = descriptor
            else:
                os.close(descriptor)

    def _open(self) -> int:
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise cannot_write(self._path.parent, error) from error
        if sys.platform != "win32":
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                raise GradlabError(
                    f"another process is writing {self._path.parent}: wait for it to end or "
                    "choose another folder."
                ) from None
            except OSError:
                pass  # a file system without locks: the check for existing results still stands
        return descriptor

    def release(self) -> None:
        """Remove the lock; harmless when it is released already."""
        if self._descriptor is None:
            return
        with contextlib.suppress(OSError):  # Windows keeps an open file, which is harmless
            self._path.unlink()
        os.close(self._descriptor)
        self._descriptor = None


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
