"""How what was found is put into words: a middle and its spread, counts, differences."""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

_NO_TEXT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Text that a terminal or a page shows as it is, whoever wrote it.

    Control characters, marks that turn the reading direction and halves of characters would be
    dropped, act on a terminal, or show what follows backwards: each becomes a replacement mark.
    Line ends and tabs stay.
    """
    return _NO_TEXT.sub("\N{REPLACEMENT CHARACTER}", text)


def number_text(number: float, form: str = ".3g") -> str:
    """A number with a real minus sign; – where there is none.

    >>> number_text(-0.5), number_text(float("nan"))
    ('−0.5', '–')
    """
    return "–" if math.isnan(number) else format(number, form).replace("-", "−")


def spread_text(middle: str, low: str, high: str) -> str:
    """A mean or median with its interval or range.

    >>> spread_text("0.14", "0.139", "0.164")
    '0.14 (0.139 to 0.164)'
    """
    return f"{middle} ({low} to {high})"


def mean_text(
    row: Mapping[Any, Any],
    name: str,
    count: int,
    *,
    ends: tuple[str, str] = ("_min", "_max"),
    form: str = ".3g",
) -> str:
    """A mean of a table's row, with its spread if there are several runs behind it.

    Args:
        row: Has the mean under `name`.
        name: Of its column.
        count: The runs behind it.
        ends: What the names of the columns of the spread have behind `name`.
        form: Of the numbers.
    """
    if not count or math.isnan(row[name]):
        return "–"
    middle, low, high = (number_text(row[name + end], form) for end in ("", *ends))
    return middle if count == 1 else spread_text(middle, low, high)


def share_text(part: int, whole: int) -> str:
    """How many of how many, said only if not all.

    >>> share_text(3, 3), share_text(2, 3)
    ('3', '2 of 3')
    """
    return str(whole) if part == whole else f"{part} of {whole}"


def noted(text: str, notes: Iterable[str]) -> str:
    """A text with notes in brackets, if there are any.

    >>> noted("3", []), noted("3", ["1 failed", "1 broke"])
    ('3', '3 (1 failed, 1 broke)')
    """
    inside = ", ".join(notes)
    return f"{text} ({inside})" if inside else text


def counts(row: Mapping[Any, Any], names: Iterable[str]) -> list[str]:
    """The counts of a row that are not zero, each with its name: `1 broke`."""
    return [f"{row[name]} {name}" for name in names if row[name]]


def difference_sentence(
    row: Mapping[Any, Any], mine: str, theirs: str, much: str, *, than: str, one: str, seldom: str
) -> str:
    """How one thing differs from another over the seeds of both, in a sentence.

    Args:
        row: Has pairs, seeds, distinguished, and low and high as text.
        mine: The one: `normformer's late fc2 mismatch`.
        theirs: The other: `pre-ln's`.
        much: By how much: `0.3 nats lower`.
        than: Between the two: ` than`.
        one: What stands for theirs behind `much` at the end: ` that`.
        seldom: Why there may be no pair.
    """
    if not row["pairs"]:
        return f"{mine} cannot be compared with {theirs}: {seldom}."
    if row["pairs"] == 1:
        return f"{mine} is {much}{than} {theirs} on the one seed of both: not distinguished."
    seeds = share_text(row["pairs"], row["seeds"])
    interval = f"95 % interval {row['low']} to {row['high']}, {seeds} seeds"
    if row["distinguished"]:
        return f"{mine} is {much}{than} {theirs} ({interval})."
    return f"{mine} is not distinguished from {theirs}: it is {much}{one} on average ({interval})."
