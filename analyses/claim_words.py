"""What is said of judged claims: their numbers, and a sentence each."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from gradlab.analyses import wording
from gradlab.analyses.claim import VERDICTS
from gradlab.analyses.claim_studies import CLAIM_TABLES
from gradlab.analyses.finding import counted


def claim_sentences(table: pd.DataFrame) -> list[str]:
    """A sentence a claim: whether it is seen, at which size, and the number with its interval.

    Args:
        table: Of `gradlab.analyses.claim.judge_all`.

    Returns:
        The sentences, in the table's order; the last says which studies have not been begun.
    """
    sentences = []
    for row in table.to_dict("records"):
        told = f"{row['says']} ({row['source']}): {row['verdict']}"
        if row["verdict"] in VERDICTS:
            number = f"{row['meaning']} {number_text(row)}"
            told += f" at {row['size']}; {number}, {counted(row['seeds'], 'seed')}"
        sentences.append(f"{told}.")
    return sentences + not_begun(table)


def not_begun(table: pd.DataFrame) -> list[str]:
    """The studies that no row of judged claims is of, in a sentence; nothing if there are none."""
    missing = [name for name in CLAIM_TABLES if name not in set(table["study"])]
    return [f"Not begun: {', '.join(missing)}."] if missing else []


def judged(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that have a verdict."""
    return table[table["verdict"].isin(VERDICTS)]


def waiting(table: pd.DataFrame) -> list[str]:
    """The claims that have none yet, a sentence a study, and the studies that are not begun."""
    rest = table[~table["verdict"].isin(VERDICTS)]
    return [
        f"{study}: {counted(len(rows), 'claim')} without a verdict, {why}."
        for (study, why), rows in rest.groupby(["study", "verdict"], sort=False)
    ] + not_begun(table)


def seeds_text(row: Mapping[Any, Any]) -> str:
    """How many seeds are behind a number; a dash before the study is finished."""
    return str(row["seeds"]) if row["verdict"] in VERDICTS else "–"


def number_text(row: Mapping[Any, Any]) -> str:
    """A claim's number with its interval, to two digits of the interval's half-width.

    An interval that spans powers of ten has two digits of each end. Both have more where an end
    would be rounded onto the edge of the claim's side, and seem to touch it.
    """
    ends = [row[name] for name in ("number", "low", "high")]
    if math.isnan(row["low"]):
        return wording.number_text(row["number"])
    half = (row["high"] - row["low"]) / 2
    is_wide = math.isinf(half)
    edges = [edge for edge in (row["above"], row["below"]) if math.isfinite(edge)]

    def touches(rounded: Callable[[float, int], float], digits: int) -> bool:
        return any(rounded(end, digits) == edge != end for end in ends for edge in edges)

    decimals = max(0, 1 - math.floor(math.log10(half))) if 0 < half < math.inf else 3
    while decimals < _MOST_DECIMALS and touches(round, decimals):
        decimals += 1
    vanishes = ends[1] * ends[2] > 0 and any(round(end, decimals) == 0 for end in ends)
    if not (is_wide or vanishes or touches(round, decimals)):
        return wording.spread_text(*(wording.number_text(end, f".{decimals}f") for end in ends))
    digits = 2
    while touches(_significant, digits):  # 17 digits are the number itself
        digits += 1
    form = f".{max(digits, 6)}g"  # an exponent below 1e-4 and from 1e6 on only
    return wording.spread_text(
        *(wording.number_text(_significant(end, digits), form) for end in ends)
    )


_MOST_DECIMALS = 9


def _significant(number: float, digits: int) -> float:
    return float(f"{number:.{digits}g}")
