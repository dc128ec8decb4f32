"""What a study of gradients says in words."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from gradlab.analyses import wording
from gradlab.analyses.wording import noted, number_text, share_text


def runs_text(row: Mapping[Any, Any], planned: int) -> str:
    """How many of an architecture's runs are behind its row, and what was left out of them."""
    rows = [f"{row['left_out']} rows left out"] if row["left_out"] else []
    return noted(share_text(row["runs"], planned), rows)


def difference_sentences(differences: pd.DataFrame, *, op: str) -> list[str]:
    """How the architectures' mismatch late in training differs, a sentence a pair.

    Args:
        differences: A table of `gradlab.analyses.gradient_study.mismatch_differences`.
        op: The op.
    """
    here = differences[(differences["op"] == op) & (differences["window"] == "late")]
    return [difference_sentence(row) for row in here.to_dict("records")]


def difference_sentence(row: Mapping[Any, Any]) -> str:
    """One row of `mismatch_differences` in words."""
    return wording.difference_sentence(
        {**row, **{end: number_text(row[end]) for end in ("low", "high")}},
        f"{row['arch']}'s {row['window']} {row['op']} mismatch",
        f"{row['baseline']}'s",
        f"{row['quotient']:.3g} times",
        than="",
        one=" that",
        seldom="no seed has one under both",
    )
