"""Whether two records of the same steps say the same, to the bit."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gradlab.runs.reader import Run

if TYPE_CHECKING:
    import pandas as pd

_TOLD = ("producer", "function", "source", "layer", "op", "dtype")
"""Columns that say more of what a row is about."""

_NOT_COMPARED = ("faults", "forecasts")
"""What is told once of a run, or of its rows so far, depends on where its record begins."""

_SINCE_THE_LAST = ("mean_shift", "std_shift")
"""Columns that compare a step with the last one recorded, whichever that was."""


@dataclass(frozen=True)
class Difference:
    """Where two records first differ.

    Attributes:
        step: The step.
        what: Table and column, with the site or parameter.
        recorded: The number in the first record; None if it has no such row.
        again: That in the second.
    """

    step: int
    what: str
    recorded: float | None
    again: float | None

    def __str__(self) -> str:
        there, here = ("nothing" if x is None else f"{x:.9g}" for x in (self.recorded, self.again))
        return f"step {self.step}, {self.what}: {there} in the record and {here} now"


def common_steps(recorded: Run, again: Run) -> tuple[int, int] | None:
    """The first and the last step that both have; None if there is none."""
    here, there = (run.table("steps", ["step"])["step"] for run in (again, recorded))
    both = here[here.isin(there)]
    return (int(both.min()), int(both.max())) if len(both) else None


def first_difference(recorded: Run, again: Run, steps: tuple[int, int]) -> Difference | None:
    """The first number that differs; None if none does.

    Of each table that both have, rows that are there twice are compared, in what both say: a record
    may have looked at fewer steps, or at less of them. `seconds` are left out.

    Args:
        recorded: One record.
        again: The other, which looks at no less.
        steps: First and last step to compare.
    """
    tables = [name for name in recorded.tables if name in again.tables]
    found = [
        difference
        for name in tables
        if name not in _NOT_COMPARED
        for difference in _differences(name, recorded, again, steps)
    ]
    return min(found, key=lambda difference: difference.step, default=None)


def _differences(
    name: str, recorded: Run, again: Run, steps: tuple[int, int]
) -> Iterator[Difference]:
    """The first difference of each column of a table."""
    one, other = (run.table(name, between=steps) for run in (recorded, again))
    if name == "headroom" and recorded.config.accumulation > 1:
        # Between two steps of the cadence, those micro-batches alone are counted that overflowed.
        one = one[one["nonfinite"].fillna(0) == 0]
    columns = [str(column) for column in one]
    words = [column for column in columns if one[column].dtype.kind == "O" or column == "bound"]
    key = ["step"] + [
        column
        for column in columns
        if column in (*words, "order", "head", "index") and column not in _TOLD
    ]
    drop = [column for column in (*_TOLD, *_SINCE_THE_LAST, "seconds") if column in columns]
    both = one.drop(columns=drop).merge(
        other.drop(columns=drop), on=key, how="left", suffixes=("", " again"), indicator=True
    )
    if name != "scores":  # whose bounds are exact where more was looked at
        yield from _first(name, key, both[both["_merge"] == "left_only"], None)
    both = both[both["_merge"] == "both"]
    for column in columns:
        if column in (*key, *drop):
            continue
        known, now = both[column], both[f"{column} again"]
        said = known.notna() & now.notna()
        if name == "steps":  # an observation, NaN included
            said = known.notna() | now.notna()
        differs = both[said & ~(known == now).fillna(False)]
        yield from _first(name, key, differs, column)


def _first(
    name: str, key: list[str], rows: "pd.DataFrame", column: str | None
) -> Iterator[Difference]:
    if rows.empty:
        return
    row = rows.sort_values("step", kind="stable").iloc[0]
    about = [str(row[part]) for part in key if part in ("site", "param", "direction")]
    what = " ".join([name, *about, *([column] if column else [])])
    if column is None:
        yield Difference(int(row["step"]), what, None, None)
    else:
        yield Difference(
            int(row["step"]), what, _number(row[column]), _number(row[f"{column} again"])
        )


def _number(value: Any) -> float | None:
    import pandas as pd

    return None if pd.isna(value) and not isinstance(value, float) else float(value)
