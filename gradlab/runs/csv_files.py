"""The one place where CSV files are written: no cell of theirs is a formula to a spreadsheet."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradlab.runs.files import read_regular, write_whole

if TYPE_CHECKING:
    import pandas as pd

_FORMULA = ("=", "+", "-", "@")
_LARGEST = 1 << 26
_APART = ("\t", "\n")


def write_csv(path: Path, table: "pd.DataFrame") -> Path:
    """A table as a CSV file, written whole, replacing what is there; numbers to their last digit.

    Raises:
        GradlabError: It cannot be written.
    """
    safe = table.copy()
    for name in table.columns:
        if table[name].map(lambda cell: isinstance(cell, str)).any():
            safe[name] = table[name].astype(object).map(guarded)
    write_whole(path, safe.to_csv(index=False, lineterminator="\n").encode())
    return path


def read_csv(path: Path, **options: Any) -> "pd.DataFrame":
    """A CSV file as pandas reads it, numbers to their last digit.

    Raises:
        FileNotFoundError: There is none.
        GradlabError: It is no regular file, which may have no end, or cannot be read.
    """
    import pandas as pd

    content = io.BytesIO(read_regular(path, at_most=_LARGEST))
    if tuple(map(int, pd.__version__.split(".")[:2])) < (3, 1):
        options["float_precision"] = "round_trip"  # later releases do so, and warn if asked to
    table: pd.DataFrame = pd.read_csv(content, **options)
    return table


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """The same of rows by column, without pandas."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: guarded(cell) for name, cell in row.items()})
    write_whole(path, text.getvalue().encode())


def guarded(cell: Any) -> Any:
    """A cell that no spreadsheet takes for a formula: text like one has an apostrophe before it.

    >>> guarded("=1+1"), guarded("pre-ln"), guarded("-0.5"), guarded(-0.5)
    ("'=1+1", 'pre-ln', '-0.5', -0.5)
    """
    if not isinstance(cell, str) or _is_number(cell):
        return cell
    # Not every Python's csv module quotes a carriage return: what follows would be a row.
    cell = cell.replace("\r", "\N{SYMBOL FOR CARRIAGE RETURN}")
    return f"'{cell}" if cell.startswith(_APART) or cell.lstrip().startswith(_FORMULA) else cell


def unguarded(cell: Any) -> Any:
    """The cell that `guarded` was given.

    >>> unguarded("'=1+1"), unguarded("'s")
    ('=1+1', "'s")
    """
    if isinstance(cell, str) and cell.startswith("'") and guarded(cell[1:]) == cell:
        return cell[1:]
    return cell


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
