"""The highest constant learning rate that architectures survive, beside the ramp's answer."""

import math
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from gradlab.analyses.intervals import bracketed_ends, exp, geometric_interval, mean_interval
from gradlab.analyses.wording import number_text, share_text, spread_text
from gradlab.errors import GradlabError
from gradlab.runs.study import StudyRecord
from gradlab.studies.limit import Limit, survived

COLUMNS = ["arch", "seed", "low", "high", "tried", "done", "ramp", "ramp_bound"]

QUANTITIES = {"low": "highest constant learning rate", "ramp": "learning rate at the ramp's break"}
"""Column → what it is."""

_BOUNDS = {"low": "above", "ramp": "ramp_bound"}
"""Column → that of a summary that counts the seeds of which it is a lower bound."""

_CAVEATS = {
    "none": " did not survive the lowest learning rate in {} of {} seeds, which are in no mean: "
    "try lower ones (--lowest).",
    "above": " survived the highest learning rate in {} of {} seeds, which are in no ratio: its "
    "limit may be higher (--highest).",
    "unfinished": "'s bisection is not done in {} of {} seeds, which are in no mean: go on with "
    "--resume.",
    "at_zero": "'s ramp broke at its first step in {} of {} seeds, at a learning rate of 0: they "
    "are in no mean.",
    "ramp_bound": "'s ramp reached its last step in {} of {} seeds without a break, which are in "
    "no ratio: it may be higher (--ramp-steps).",
}
"""Column of a summary → what is said of an architecture that has such seeds."""


def limits(study: StudyRecord) -> pd.DataFrame:
    """How far the bisection of each architecture and seed has come, and where its ramp broke.

    Args:
        study: A study of `gradlab limit`, finished or not.

    Returns:
        One row per (seed, arch): columns arch, seed, low (the highest rate survived; NaN if none
        has been), high (the lowest not; NaN if none), tried (runs), done (whether no rate is left
        between the two, so that low is the answer), ramp (the learning rate at its break, or at
        its last step; NaN where it has not ended), ramp_bound (whether it did not break, so that
        the rate is a lower bound).

    Raises:
        GradlabError: The study is another one.
    """
    if study.command is None or study.command.name != Limit.command_name:
        raise GradlabError(f"{study.folder} holds no study of gradlab limit.")
    rates = Limit(**study.command.options).rates()
    runs = study.runs
    ramps = {
        (run.config.arch, run.config.seed): run.verdict
        for run in runs
        if run.config.schedule.kind == "ramp" and run.verdict is not None
    }
    rows = []
    for (arch, seed), tried in survived(runs).items():
        low, high = rates.bracket(tried)
        ramp = ramps.get((arch, seed))
        ended = ramp is not None and (ramp.broke or ramp.censored)
        if tried or ended:
            bound = ended and ramp is not None and ramp.censored
            lr = ramp.lr if ramp is not None and ended else None
            done = rates.next(tried) is None
            rows.append([arch, seed, low, high, len(tried), done, lr, bound])
    table = pd.DataFrame(rows, columns=COLUMNS)
    numbers, truths = ("low", "high", "ramp"), ("done", "ramp_bound")
    return table.astype(dict.fromkeys(numbers, "float64") | dict.fromkeys(truths, "bool"))


def answers(table: pd.DataFrame) -> pd.DataFrame:
    """A table of `limits` without the answers that are none: NaN in their place.

    These are the rates of a bisection that is not done, and of a ramp that broke at its first step,
    where the rate is 0.
    """
    low = table["low"].where(table["done"])
    return table.assign(low=low, ramp=table["ramp"].where(table["ramp"] > 0))


def summarise_limits(table: pd.DataFrame) -> pd.DataFrame:
    """Both answers of each architecture over its seeds: geometric means with 95 % intervals.

    Args:
        table: A table of `limits`.

    Returns:
        One row per architecture: columns arch, seeds, and of `low` and `ramp` the mean under their
        name and its ends under `_low` and `_high` (NaN for one seed); none (seeds that survived
        not even the lowest rate, which are in no mean), above (those that survived the highest: a
        lower bound), unfinished (those whose bisection is not done: in no mean), at_zero (ramps
        that broke at their first step: in no mean), ramp_bound (ramps that did not break: a lower
        bound).
    """
    rows = []
    for arch, seeds in answers(table).groupby("arch", sort=False):
        row: dict[str, Any] = {"arch": arch, "seeds": len(seeds)}
        for name in QUANTITIES:
            row |= geometric_interval(seeds[name].dropna()).columns(name)
        row["none"] = int((seeds["low"].isna() & seeds["done"]).sum())
        row["above"] = int((seeds["high"].isna() & seeds["done"]).sum())
        row["unfinished"] = int((~seeds["done"]).sum())
        row["at_zero"] = int((table.loc[seeds.index, "ramp"] == 0).sum())
        row["ramp_bound"] = int(seeds["ramp_bound"].sum())
        rows.append(row)
    return pd.DataFrame(rows)


def compare_limits(table: pd.DataFrame) -> pd.DataFrame:
    """The ratio between every two architectures, by either answer, over the seeds of both.

    A bisection brackets the highest constant rate of a seed between the highest survived and the
    lowest not. The interval counts that: it holds the interval of whatever rates are in these
    brackets, each seed's in its own (`gradlab.analyses.intervals.bracketed_ends`).

    A seed that survived every rate, or a ramp that did not break, in either architecture leaves
    its pair out, and is counted: one side of that ratio is not known (as in
    `gradlab.analyses.stability.paired_differences`).

    Args:
        table: A table of `limits`.

    Returns:
        One row per pair and quantity: columns baseline, arch, quantity (`low` or `ramp`), pairs,
        censored (pairs left out), ratio (geometric mean of arch's over the baseline's), low, high
        (its 95 % interval), and distinguished (whether that leaves out 1).
    """
    known = answers(table)
    known = known.assign(
        low_most=known["high"], ramp_most=known["ramp"].where(~known["ramp_bound"])
    )
    rows = []
    for baseline, arch in combinations(dict.fromkeys(known["arch"]), 2):
        mine, theirs = (known[known["arch"] == name].set_index("seed") for name in (arch, baseline))
        for quantity in QUANTITIES:
            most = f"{quantity}_most"
            ratios = pd.DataFrame(
                {
                    "middle": mine[quantity] / theirs[quantity],
                    "least": mine[quantity] / theirs[most],
                    "largest": mine[most] / theirs[quantity],
                }
            ).dropna(subset="middle")
            logs = np.log(ratios.dropna())
            low, high = bracketed_ends(logs["least"].tolist(), logs["largest"].tolist())
            rows.append(
                {
                    "baseline": baseline,
                    "arch": arch,
                    "quantity": quantity,
                    "pairs": len(logs),
                    "censored": len(ratios) - len(logs),
                    "ratio": exp(mean_interval(logs["middle"].tolist()).mean),
                    "low": exp(low),
                    "high": exp(high),
                    "distinguished": low > 0 or high < 0,
                }
            )
    columns = ["baseline", "arch", "quantity", "pairs", "censored", "ratio", "low", "high"]
    return pd.DataFrame(rows, columns=[*columns, "distinguished"])


def limit_sentences(summary: pd.DataFrame, differences: pd.DataFrame) -> list[str]:
    """How architectures differ by either answer, and whether the two rank them alike.

    Args:
        summary: A table of `summarise_limits`.
        differences: A table of `compare_limits`.
    """
    if summary.empty:
        return ["No run has ended: there is nothing to compare."]
    sentences = [
        f"{row['arch']}: the highest constant learning rate survived is {_known(row, 'low')}, the "
        f"learning rate at the ramp's break {_known(row, 'ramp')}."
        for row in summary.to_dict("records")
    ]
    sentences += [
        _difference_sentence(row)
        for row in differences.to_dict("records")
        if row["pairs"] or row["censored"]
    ]
    sentences += limit_caveats(summary)
    known = summary.dropna(subset=list(QUANTITIES))
    if len(known) > 1:
        sentences.append(_rank_sentence(known, differences))
    return sentences


def _known(row: dict[Any, Any], name: str) -> str:
    return "not known" if math.isnan(row[name]) else limit_text(row, name)


def limit_caveats(summary: pd.DataFrame) -> list[str]:
    """What a table of `summarise_limits` leaves out or has as a bound, in sentences."""
    return [
        f"{row['arch']}{said.format(row[name], row['seeds'])}"
        for row in summary.to_dict("records")
        for name, said in _CAVEATS.items()
        if row[name]
    ]


def _difference_sentence(row: dict[Any, Any]) -> str:
    what = f"{row['arch']}'s {QUANTITIES[row['quantity']]}"
    if not row["pairs"]:
        return f"{what} cannot be compared with {row['baseline']}'s: no seed of both has a ratio."
    times = f"{number_text(row['ratio'])} times {row['baseline']}'s"
    if row["pairs"] == 1:
        return f"{what} is {times} on the one seed of both: not distinguished."
    low, high = (number_text(row[end]) for end in ("low", "high"))
    seeds = share_text(row["pairs"], row["pairs"] + row["censored"])
    counted = " with the step between rates" if row["quantity"] == "low" else ""
    ends = f"95 % interval{counted} {low} to {high}, {seeds} seeds"
    if row["distinguished"]:
        return f"{what} is {times} ({ends})."
    return f"{what} is not distinguished from {row['baseline']}'s: {times} on average ({ends})."


def _rank_sentence(known: pd.DataFrame, differences: pd.DataFrame) -> str:
    constant, ramp = (_order(known, name) for name in QUANTITIES)
    if constant == ramp:
        return f"By constant rates and by the ramp the order is the same: {constant}."
    apart = differences.pivot(
        index=["baseline", "arch"], columns="quantity", values=["ratio", "distinguished"]
    )
    turned = (apart["ratio"]["low"] > 1) != (apart["ratio"]["ramp"] > 1)
    certain = turned & (apart["distinguished"]["low"] & apart["distinguished"]["ramp"]).astype(bool)
    order = f"By constant rates the order is {constant}, by the ramp {ramp}"
    if certain.any():
        pairs = ", ".join(f"{arch} and {baseline}" for baseline, arch in apart.index[certain])
        return f"{order}; both tell apart, the other way round, {pairs}."
    return f"{order}; no two that change places are told apart by both."


def _order(known: pd.DataFrame, name: str) -> str:
    """The architectures, the highest first: `pre-ln = post-ln > normformer`."""
    ordered = known.sort_values(name, ascending=False, kind="stable")
    return " > ".join(" = ".join(alike) for _, alike in ordered.groupby(name, sort=False)["arch"])


def limit_text(row: dict[Any, Any], name: str) -> str:
    """One of the two answers of a row of `summarise_limits`, with its interval.

    Where a seed's is a lower bound, so is the mean, and ≥ says so.
    """
    if math.isnan(row[name]):
        return "–"
    middle, low, high = (number_text(row[f"{name}{end}"]) for end in ("", "_low", "_high"))
    least = "≥" if row[_BOUNDS[name]] else ""
    return least + (middle if low == "–" else spread_text(middle, low, high))
