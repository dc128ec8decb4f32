"""A table of results, for a screen and for a page."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from gradlab.analyses.wording import number_text


@dataclass(frozen=True)
class Cell:
    """What a table shows at a place.

    Attributes:
        text: What stands there.
        order: What it is sorted by: a number; a missing one comes last. The text if None.
        class_: Its class in the page's style sheet.
    """

    text: str
    order: float | None = None
    class_: str | None = None


def number(value: float | None, form: str = ".4g") -> Cell:
    """A number, sorted as such; a dash where there is none."""
    value = math.nan if value is None else value
    return numeric(number_text(value, form), value)


def numeric(text: str, order: float) -> Cell:
    """A number with what is to be said of it, sorted as the number."""
    return Cell(text, float(order), "number")


@dataclass(frozen=True)
class Table:
    """A table; a page's can be sorted.

    Attributes:
        headings: Of the columns.
        rows: The cells, the first of each row its heading.
        caption: What the table is.
        shown: Whether that stands above it, or is only for a screen reader.
        note: A sentence below it.
        whole: Headings of columns that a screen does not break.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str
    shown: bool = True
    note: str = ""
    whole: Collection[str] = ()

    def is_number(self, column: int) -> bool:
        """Whether a column holds nothing but numbers."""
        return bool(self.rows) and all(row[column].class_ == "number" for row in self.rows)
