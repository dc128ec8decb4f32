"""What a league says, in sentences."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from gradlab.analyses.comparable import loss_differs
from gradlab.analyses.finding import counted
from gradlab.analyses.league import (
    MEASURES,
    league_beside,
    league_differences,
    league_overflows,
    league_seeds,
    order_kept,
    rank_agreement,
)
from gradlab.analyses.limits import limit_caveats, limits, summarise_limits
from gradlab.analyses.stability import NO_OVERFLOW
from gradlab.analyses.wording import number_text, spread_text
from gradlab.runs.study import StudySet
from gradlab.runs.verdict import NOT_LOOKED_AT

_SAME = ("ramp", "limit")
"""The two measures whose order is compared."""

_OF_LOSSES = ("loss", "sensitivity")
"""The measures in nats a token of a text."""


def league_sentences(league: StudySet) -> list[str]:
    """Which architectures are told apart from Pre-LN and by how much, and what overflowed.

    Args:
        league: The studies of `gradlab league`, finished or not.
    """
    seeds = league_seeds(league)
    sentences = difference_sentences(league_differences(seeds))
    sentences += overflow_sentences(league_overflows(league))
    if agreement := agreement_sentence(rank_agreement(seeds, *_SAME)):
        sentences.append(agreement)
    if study := league.studies.get("limit"):
        table = limits(study)
        sentences += limit_caveats(summarise_limits(table))
        factor = (table["high"] / table["low"]).where(table["done"]).max()
        if not math.isnan(factor):
            sentences.append(
                "A seed's highest constant rate is known to the next rate that was tried, "
                f"{number_text(factor)} times as high, which the intervals do not count."
            )
    return sentences


def beside_sentences(mine: StudySet, other: StudySet) -> list[str]:
    """How each architecture differs from itself in another league, and whether the order is kept.

    Args:
        mine: The studies of `gradlab league`.
        other: Another's, as without a norm on q and k, or of another width.
    """
    tables = [league_seeds(league) for league in (mine, other)]
    kept = [
        f"{MEASURES[row['measure']].heading} {number_text(row['correlation'], '.2f')} "
        f"({row['architectures']})"
        for row in order_kept(*tables).to_dict("records")
    ]
    beside = league_beside(*tables)
    if word := _losses_differ(mine, other):
        beside = beside[~beside["measure"].isin(_OF_LOSSES)]
    sentences = difference_sentences(beside, against=f"those in {other.folder}")
    if word:
        sentences.append(f"The losses do not compare with those there: the {word} differ.")
    if kept:
        sentences.append(
            "Whether the architectures stand in the same order there, as a rank correlation "
            f"(Spearman; architectures): {', '.join(kept)}."
        )
    return sentences


def _losses_differ(mine: StudySet, other: StudySet) -> str | None:
    """What makes the losses of two leagues losses of different things, in a word."""
    searches = [league.studies.get("lr-search") for league in (mine, other)]
    runs = [search.runs for search in searches if search]
    return loss_differs(runs[0][0], runs[1][0]) if len(runs) == 2 and all(runs) else None


def difference_sentences(differences: pd.DataFrame, *, against: str = "") -> list[str]:
    """A sentence a measure: who is above the baseline, who below, who is not distinguished.

    Args:
        differences: A table of `gradlab.analyses.league.league_differences`, or `league_beside`.
        against: The baseline in words; its architecture unless given.
    """
    sentences = []
    for name, measure in MEASURES.items():
        rows = differences[differences["measure"] == name].sort_values(
            "difference", ascending=False, kind="stable"
        )
        if rows.empty or not rows["pairs"].gt(1).any():
            continue
        above = rows["distinguished"] & (rows["difference"] > measure.none)
        below = rows["distinguished"] & (rows["difference"] < measure.none)
        parts = [
            f"{word} in {', '.join(map(difference_text, part.to_dict('records')))}"
            for word, part in (("higher", rows[above]), ("lower", rows[below]))
            if len(part)
        ]
        rest = rows.loc[~above & ~below, "arch"].tolist()
        parts += [f"not distinguished in {', '.join(rest)}"] if rest else []
        baseline = against or rows["baseline"].iloc[0]
        sentences.append(f"Against {baseline}, the {measure.says} is {'; '.join(parts)}.")
    return sentences


def difference_text(row: Mapping[Any, Any]) -> str:
    """An architecture and its difference: `peri-ln 1.6 times (1.3 to 2)`."""
    geometric = MEASURES[row["measure"]].geometric
    form = ".3g" if geometric else "+.3g"
    ends = spread_text(*(number_text(row[end], form) for end in ("difference", "low", "high")))
    middle, _, interval = ends.partition(" ")
    least = "at least " if row["bound"] else ""
    return f"{row['arch']} {least}{middle}{' times' if geometric else ''} {interval}"


def overflow_sentences(sites: pd.DataFrame) -> list[str]:
    """In whose ramps an FP16 tensor overflowed before anything else broke, and in whose not.

    Args:
        sites: A table of `gradlab.analyses.league.league_overflows`.
    """
    overflowed: list[str] = []
    spared: list[str] = []
    unseen: list[str] = []
    for arch, rows in sites.groupby("arch", sort=False):
        broke = int(rows["runs"].sum())
        sites_of_it = rows[~rows["site"].isin([NO_OVERFLOW, NOT_LOOKED_AT])]
        if len(sites_of_it):
            runs, first = sites_of_it["runs"].sum(), sites_of_it["site"].iloc[0]
            overflowed.append(f"{arch} ({runs} of {broke}, first at {first})")
        else:
            is_unseen = NOT_LOOKED_AT in set(rows["site"])
            (unseen if is_unseen else spared).append(f"{arch} ({broke})")
    sentences = []
    if overflowed:
        sentences.append(f"The ramp broke at an FP16 overflow in {', '.join(overflowed)}.")
    if spared:
        sentences.append(f"The ramp broke without an FP16 overflow in {', '.join(spared)}.")
    if unseen:
        sentences.append(
            f"Whether an FP16 tensor overflowed was not looked at in {', '.join(unseen)}."
        )
    return sentences


def agreement_sentence(found: Mapping[str, float]) -> str:
    """Whether the ramp and the constant rate rank the architectures alike; empty for too few.

    Args:
        found: Of `gradlab.analyses.league.rank_agreement`.
    """
    if math.isnan(found["correlation"]):
        return ""
    pairs, turned = counted(int(found["pairs"]), "pair"), found["turned"]
    change = "changes" if turned == 1 else "change"
    told = f"of the {pairs} that both tell apart, {turned} {change} places"
    if not found["pairs"]:
        told = "no two are told apart by both"
    return (
        f"The ramp and the constant rate rank the {found['architectures']} architectures alike to "
        f"a correlation of {number_text(found['correlation'], '.2f')} (Spearman); {told}."
    )
