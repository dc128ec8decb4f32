"""A single file that somebody named: not written over another one unless asked."""

from pathlib import Path

from gradlab.errors import GradlabError
from gradlab.runs.files import make_folder, write_whole


def check_free(path: Path, *, force: bool) -> None:
    """See that a file may be written, before the work for it is done.

    Raises:
        GradlabError: It is there and `force` is not given, or it is a folder.
    """
    if path.is_dir():
        raise GradlabError(f"{path} is a folder: name a file in it.")
    if path.exists() and not force:
        raise GradlabError(f"{path} is there already: overwrite it with --force, or name another.")


def write_file(path: Path, content: bytes) -> None:
    """Write a file whole; its folder is made.

    Raises:
        GradlabError: It cannot be written.
    """
    make_folder(path.parent)
    write_whole(path, content)
