"""Paths as users give them, made usable in one place."""

import errno
import os
from pathlib import Path

from gradlab.errors import GradlabError


def as_path(given: str | os.PathLike[str]) -> Path:
    """The path that somebody means, `~` being the home folder; whether it is there does not matter.

    Raises:
        GradlabError: It is empty or no text, is not UTF-8 (no `run.json` could hold it), or longer
            than the file system takes.
    """
    text = os.fspath(given) if isinstance(given, str | os.PathLike) else given
    if not isinstance(text, str) or not text:
        raise GradlabError(f"{given!r} is no path: give a file's or a folder's name.")
    text = os.path.expanduser(text)
    try:
        text.encode()
        os.lstat(text)
    except ValueError:  # a lone surrogate stands for a byte; a null character is in no name
        raise GradlabError(
            f"the path {text!r} is not UTF-8 text: rename it, or choose another."
        ) from None
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise GradlabError(f"the path {text} cannot be used: {error.strerror}.") from None
    return Path(text)
