"""The default corpus: real text that every Python installation already has."""

import sysconfig
from pathlib import Path

from gradlab.errors import GradlabError

STDLIB = "python-stdlib"


def stdlib_documents() -> list[bytes]:
    """The standard library's top-level `*.py`, sorted by name, then `pydoc_data/topics.py`.

    About 5 MB of code and English prose; nothing is downloaded. Its SHA-256 differs between
    Python versions.

    Raises:
        GradlabError: The sources are not on disk, as with a zipped standard library.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    topics = folder / "pydoc_data" / "topics.py"
    files = sorted(folder.glob("*.py"), key=lambda file: file.name)
    try:
        if files:
            return [file.read_bytes() for file in [*files, topics]]
        missing = f"{folder} holds no *.py files"
    except OSError as error:
        missing = f"{error.filename} cannot be read ({error.strerror})"
    raise GradlabError(
        f"the corpus {STDLIB} needs the sources of the standard library on disk, and "
        f"{missing}: set corpus to a text file or folder."
    )
