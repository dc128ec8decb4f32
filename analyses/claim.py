"""A claim that can be tested: its number, the side on which it holds, and one rule for verdicts."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from gradlab.analyses.claim_estimates import Estimate

SEEN, NOT_SEEN, NOT_DISTINGUISHED = VERDICTS = ("seen", "not seen", "not distinguished")

RULE = (
    "seen: the 95 % interval over seeds lies wholly on the claim's side; not seen: wholly outside "
    "it; not distinguished: it reaches across, or there is none (fewer than two seeds)"
)
"""How a verdict comes about, in a sentence."""


COLUMNS = [
    *("claim", "says", "source", "study", "size", "number", "low", "high"),
    *("meaning", "above", "below", "seeds", "verdict"),
]
"""Of a table of judged claims."""


@dataclass(frozen=True)
class Claim:
    """A claim.

    Attributes:
        name: A short name, which stays.
        says: The claim in words.
        source: Where the paper says or shows it.
        study: Which study has its runs.
        table: Which of the study's tables has its number.
        meaning: What the number is.
        estimate: The number, from the table.
        above: The claim holds above this,
        below: and below this.
    """

    name: str
    says: str
    source: str
    study: str
    table: str
    meaning: str
    estimate: Callable[[pd.DataFrame], Estimate]
    above: float = -math.inf
    below: float = math.inf


@dataclass(frozen=True)
class StudyTables:
    """What a study has for the claims.

    Attributes:
        size: Of its models; `masked nano` of masked ones.
        tables: By the names that the claims give them.
        missing: Why there are none, in a few words: the study is not finished.
    """

    size: str
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    missing: str = ""


def verdict_on(claim: Claim, found: Estimate) -> str:
    """`SEEN`, `NOT_SEEN` or `NOT_DISTINGUISHED`, by `RULE`."""
    if found.low > claim.above and found.high < claim.below:
        return SEEN
    if found.high < claim.above or found.low > claim.below:
        return NOT_SEEN
    return NOT_DISTINGUISHED


def judge(claim: Claim, study: StudyTables) -> dict[str, Any]:
    """A claim's row: what it says, its number and its verdict.

    Args:
        claim: The claim.
        study: What its study has.

    Returns:
        By the names of `COLUMNS`: claim (its name), says, source, study, size, number, low, high
        (the 95 % interval), meaning, above, below (the claim's side), seeds (or pairs of runs with
        one seed, behind the number), verdict. Of a study that is not finished there is no number,
        and the verdict says so.
    """
    found = Estimate(math.nan, math.nan, math.nan, 0)
    verdict = study.missing
    if not study.missing:
        found = claim.estimate(study.tables[claim.table])
        verdict = verdict_on(claim, found)
    return {
        "claim": claim.name,
        "says": claim.says,
        "source": claim.source,
        "study": claim.study,
        "size": study.size,
        "number": found.number,
        "low": found.low,
        "high": found.high,
        "meaning": claim.meaning,
        "above": claim.above,
        "below": claim.below,
        "seeds": found.seeds,
        "verdict": verdict,
    }


def judge_all(claims: Iterable[Claim], studies: Mapping[str, StudyTables]) -> pd.DataFrame:
    """A row a claim by `judge`, of the claims whose study is there."""
    return pd.DataFrame(
        [judge(claim, studies[claim.study]) for claim in claims if claim.study in studies],
        columns=COLUMNS,
    )
