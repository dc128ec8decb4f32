"""Figures to files, the same bytes for the same figure."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from gradlab.errors import GradlabError, unknown
from gradlab.figures.style import paper_style
from gradlab.runs.files import cannot_write, write_whole

# What each format would otherwise note: the time, or the version of matplotlib.
_METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "svg": {"Date": None, "Creator": None},
}

FORMATS = tuple(_METADATA)


def save(figure: Figure, path: str | Path, formats: Sequence[str] = ("png", "pdf")) -> list[Path]:
    """Write a figure once in each format, replacing what is there.

    Drawn twice by one version of matplotlib, a figure gives the same bytes: no time or host is
    written. PDFs embed TrueType fonts. A file is written whole and renamed into place.

    Args:
        figure: What to write.
        path: Where, without an ending; its folder is made.
        formats: Of `png`, `pdf` and `svg`.

    Returns:
        The files, in the order of `formats`.

    Raises:
        GradlabError: An unknown format, or a file that cannot be written.
    """
    files = []
    for form in formats:
        content = rendered(figure, form)
        file = Path(f"{path}.{form}")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(file.parent, error) from error
        write_whole(file, content)
        files.append(file)
    return files


def rendered(figure: Figure, form: str) -> bytes:
    """What a file of the figure holds.

    Args:
        figure: The figure.
        form: `png`, `pdf` or `svg`.

    Raises:
        GradlabError: An unknown format.
    """
    if form not in FORMATS:
        raise GradlabError(unknown("figure format", form, FORMATS))
    content = BytesIO()
    with paper_style():
        figure.savefig(content, format=form, metadata=_METADATA[form])
    return content.getvalue()
