"""What a study of constant learning rates says where its answers are none."""

import math
from typing import Any

import pandas as pd

from gradlab.analyses.intervals import mean_interval
from gradlab.analyses.limits import COLUMNS, compare_limits, limit_sentences, summarise_limits


def table(*rows: dict[str, Any]) -> pd.DataFrame:
    whole = {"arch": "pre-ln", "seed": 0, "low": 0.1, "high": 0.2, "tried": 3, "done": True}
    return pd.DataFrame([{**whole, "ramp": 0.3, "ramp_bound": False, **row} for row in rows])[
        COLUMNS
    ]


def said(limits: pd.DataFrame) -> str:
    return " ".join(limit_sentences(summarise_limits(limits), compare_limits(limits)))


def test_what_is_not_tried_yet_is_no_answer() -> None:
    nan = math.nan
    one = table({"high": nan, "done": False}, {"seed": 1, "low": nan, "done": False}, {"seed": 2})
    summary = summarise_limits(one).iloc[0]
    assert math.isclose(summary["low"], 0.1)
    assert (summary["none"], summary["above"], summary["unfinished"]) == (0, 0, 2)
    assert "survived the highest" not in said(one)
    assert "did not survive" not in said(one)
    assert "bisection is not done in 2 of 3 seeds" in said(one)


def test_an_end_of_the_rates_is_one_where_the_search_is_done() -> None:
    ends = table({"high": math.nan}, {"seed": 1, "low": math.nan})
    assert "survived the highest learning rate in 1 of 2 seeds" in said(ends)
    assert "did not survive the lowest learning rate in 1 of 2 seeds" in said(ends)


def test_unfinished_seeds_are_in_no_comparison() -> None:
    both = table({}, {"arch": "post-ln", "low": 0.001, "done": False})
    assert compare_limits(both).set_index("quantity")["pairs"].to_dict() == {"low": 0, "ramp": 1}


def test_a_ramp_that_breaks_at_its_first_step_has_no_rate() -> None:
    zero = table({"ramp": 0.0}, {"seed": 1})
    assert math.isclose(summarise_limits(zero).iloc[0]["ramp"], 0.3)
    assert "ramp broke at its first step in 1 of 2 seeds" in said(zero)
    assert math.isnan(summarise_limits(zero[:1]).iloc[0]["ramp"])


def test_a_study_without_a_run_that_ended_is_said() -> None:
    empty = pd.DataFrame()
    assert limit_sentences(empty, empty) == ["No run has ended: there is nothing to compare."]


def compared(*rows: dict[str, Any]) -> pd.Series:
    found = compare_limits(table(*rows))
    return found[found["quantity"] == "low"].iloc[0]


def test_the_interval_of_a_ratio_counts_the_brackets() -> None:
    """Wherever in its bracket each seed's limit is, the interval holds the ratio's own."""
    seeds = range(3)
    factor = 1.25
    mine = [{"arch": "b", "seed": s, "low": 0.2 * 1.1**s, "high": 0.25 * 1.1**s} for s in seeds]
    theirs = [{"seed": s, "low": 0.1, "high": 0.125} for s in seeds]
    row = compared(*theirs, *mine)
    exact = mean_interval([math.log(2 * 1.1**s) for s in seeds])
    assert math.isclose(row["ratio"], math.exp(exact.mean))
    assert math.isclose(row["low"], math.exp(exact.low) / factor)
    assert math.isclose(row["high"], math.exp(exact.high) * factor)
    assert row["distinguished"]
    # All seeds one step apart, as a factor of 1.25 shows what is 0 to 56 % higher.
    near = [{"arch": "b", "seed": s, "low": 0.125, "high": 0.15625} for s in seeds]
    row = compared(*theirs, *near)
    assert math.isclose(row["low"], 1)
    assert math.isclose(row["high"], factor**2)
    assert not row["distinguished"]


def test_what_survived_every_rate_may_be_anywhere_above() -> None:
    all_of_them = [{"arch": "b", "seed": s, "low": 0.4, "high": math.nan} for s in (0, 1)]
    theirs = [{"seed": s} for s in (0, 1)]
    row = compared(*theirs, *all_of_them)
    assert math.isclose(row["low"], 0.4 / 0.2)
    assert row["high"] == math.inf
    assert row["distinguished"]
    assert "with the step between rates 2 to ∞, 2 seeds" in said(table(*theirs, *all_of_them))
    turned = compared(*({**one, "arch": "a"} for one in all_of_them), *theirs)
    assert (turned["low"], turned["distinguished"]) == (0, True)
    both = compared(*({**one, "arch": "a"} for one in all_of_them), *all_of_them)
    assert (both["low"], both["high"], both["distinguished"]) == (0, math.inf, False)
    single = compared(theirs[0], all_of_them[0])
    assert math.isnan(single["low"])
    assert math.isnan(single["high"])
