"""After how many of the baseline's steps its final perplexity is reached: the paper's Table 6."""

import math
from collections.abc import Iterable
from typing import Any

import pandas as pd

from gradlab.analyses.compute import perplexity_curves
from gradlab.analyses.finding import counted
from gradlab.analyses.wording import number_text, spread_text
from gradlab.errors import GradlabError, unknown
from gradlab.models.presets import BASELINE
from gradlab.runs.reader import Run

STEP_COLUMNS = ["size", "baseline", "arch", "seed", "target", "of", "steps", "reached", "share"]


def steps_of(runs: Iterable[Run]) -> pd.DataFrame:
    """`steps_to_final` against Pre-LN, of runs that were validated on their way to their last step.

    Empty where none was, or Pre-LN has no run among them.

    Args:
        runs: Of one setting, by architecture and seed; those that did not reach their last step
            are left out.

    Raises:
        GradlabError: The runs do not compare.
    """
    whole = [run for run in runs if run.completed]
    on_the_way = any(run.config.val_every < run.config.steps for run in whole)
    if not on_the_way or all(run.config.arch != BASELINE for run in whole):
        return pd.DataFrame(columns=STEP_COLUMNS)
    return steps_to_final(perplexity_curves(whole), baseline=BASELINE)


def steps_to_final(curves: pd.DataFrame, *, baseline: str) -> pd.DataFrame:
    """Where each run is first as low as the baseline of its seed is at its end.

    No validation is imagined between two: a share is known to within the steps between them, and
    it is the later end. The baseline has a row too, as it may be as low before its end.

    Args:
        curves: A table of `gradlab.analyses.compute.perplexity_curves`.
        baseline: The architecture to compare with.

    Returns:
        One row per run whose seed the baseline has too: columns size, baseline, arch, seed, target
        (the baseline's perplexity at its last validation), of (the steps that it took until then),
        steps (that the run took until its first validation at or below the target; NaN if there is
        none), reached (its perplexity there), share (steps / of). Where the target is not finite,
        all are NaN.

    Raises:
        GradlabError: There is no such baseline.
    """
    architectures = list(pd.unique(curves["arch"]))
    if baseline not in architectures:
        raise GradlabError(unknown("baseline", baseline, architectures))
    ends = curves[curves["arch"] == baseline].groupby(["size", "seed"]).tail(1)
    ends = ends.assign(target=ends["perplexity"], of=ends["step"] + 1)
    rows = curves.merge(ends[["size", "seed", "target", "of"]], on=["size", "seed"])
    known = rows["target"] < math.inf
    first = rows[known & (rows["perplexity"] <= rows["target"])]
    first = first.drop_duplicates(["size", "arch", "seed"])
    first = first.assign(steps=first["step"] + 1.0, reached=first["perplexity"])
    runs = rows.drop_duplicates(["size", "arch", "seed"])[["size", "arch", "seed", "target", "of"]]
    key = ["size", "arch", "seed"]
    found = runs.merge(first[[*key, "steps", "reached"]], on=key, how="left")
    found = found.assign(baseline=baseline, share=found["steps"] / found["of"])
    return found[STEP_COLUMNS]


def steps_text(row: dict[Any, Any]) -> str:
    """A row of `gradlab.analyses.compute.summarise_shares`: `70 % (62 to 79); never in 1 seed`."""
    return _share_text(row) + _missing_text(row) if row["reached"] else "never"


def _share_text(row: dict[Any, Any]) -> str:
    texts = [number_text(100 * row[end], ".0f") for end in ("share", "low", "high")]
    return f"{texts[0]} %" if texts[1] == "–" else spread_text(f"{texts[0]} %", *texts[1:])


def _missing_text(row: dict[Any, Any]) -> str:
    missing = row["seeds"] - row["reached"]
    return f"; never in {counted(missing, 'seed')}" if missing else ""


def steps_sentences(summary: pd.DataFrame) -> list[str]:
    """After which share of the baseline's steps each other architecture is as good as its end.

    Args:
        summary: A table of `gradlab.analyses.compute.summarise_shares`.
    """
    others = summary[summary["arch"] != summary["baseline"]]
    return [_sentence(row) for row in others.to_dict("records")]


def _sentence(row: dict[Any, Any]) -> str:
    goal = f"the final perplexity of {row['baseline']}"
    if not row["reached"]:
        return f"{row['arch']} never has {goal}, in {counted(row['seeds'], 'seed')}."
    apart = "" if row["distinguished"] else ", not distinguished from all of them"
    when = f"at the validation after {_share_text(row)} of its steps{apart}"
    return f"{row['arch']} first has {goal} {when}{_missing_text(row)}."
