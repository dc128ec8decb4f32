"""What a study of constant learning rates says where its answers are none."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gradlab.analyses.intervals import mean_interval
from gradlab.analyses.limits import COLUMNS, compare_limits, limit_sentences, summarise_limits
from gradlab.pages.limit_table import limit_table


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


@pytest.mark.parametrize(
    ("bound", "words"),
    [
        (
            {"high": math.nan},
            "survived is ≥0.1 (0.1 to 0.1), the learning rate at the ramp's break 0.3 (",
        ),
        (
            {"ramp_bound": True},
            "survived is 0.1 (0.1 to 0.1), the learning rate at the ramp's break ≥0.3 (",
        ),
    ],
)
def test_a_mean_over_a_lower_bound_is_one(bound: dict[str, Any], words: str) -> None:
    limits = table({}, {"seed": 1, **bound})
    assert words in said(limits)
    shown = [cell.text for cell in limit_table(summarise_limits(limits)).rows[0]]
    assert sum("≥" in text for text in shown) == 1
    assert "≥" not in said(table({}))


def test_a_rate_that_nothing_gave_is_not_known() -> None:
    nothing = table({"low": math.nan, "high": math.nan, "ramp": math.nan, "done": False})
    assert "survived is not known, the learning rate at the ramp's break not known." in said(
        nothing
    )


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


def compared(*rows: dict[str, Any], quantity: str = "low") -> pd.Series:
    found = compare_limits(table(*rows))
    return found[found["quantity"] == quantity].iloc[0]


def bracketed(arch: str, brackets: Sequence[tuple[float, float]]) -> list[dict[str, Any]]:
    return [
        {"arch": arch, "seed": seed, "low": low, "high": high}
        for seed, (low, high) in enumerate(brackets)
    ]


def test_the_interval_of_a_ratio_holds_what_any_rates_in_the_brackets_give() -> None:
    """Some seeds at the one end of theirs and some at the other are the most spread."""
    theirs, mine = bracketed("a", [(0.1, 0.125)] * 3), bracketed("b", [(0.2, 0.25)] * 3)
    row = compared(*theirs, *mine)
    assert math.isclose(row["ratio"], 2)
    assert not row["distinguished"]
    draws = np.random.default_rng(0)
    for _ in range(200):
        low, high = draws.choice([0.1, 0.125], 3), draws.uniform(0.2, 0.25, 3)
        exact = mean_interval(np.log(high / low).tolist())
        assert row["low"] <= math.exp(exact.low)
        assert math.exp(exact.high) <= row["high"]
    spread = [math.log(0.2 / 0.125), math.log(0.2 / 0.125), math.log(0.25 / 0.1)]
    assert math.isclose(row["low"], math.exp(mean_interval(spread).low))


@pytest.mark.parametrize(("seeds", "steps"), [(3, 4), (5, 2)])
def test_how_many_steps_apart_seeds_that_agree_are_distinguished(seeds: int, steps: int) -> None:
    """What docs/depth.md says."""
    factor = 1.25
    theirs = bracketed("a", [(0.1, 0.1 * factor)] * seeds)

    def higher(by: int) -> list[dict[str, Any]]:
        return bracketed("b", [(0.1 * factor**by, 0.1 * factor ** (by + 1))] * seeds)

    assert compared(*theirs, *higher(steps))["distinguished"]
    assert compared(*higher(steps), *theirs)["distinguished"]
    assert not compared(*theirs, *higher(steps - 1))["distinguished"]


def test_a_limit_that_is_only_a_lower_bound_is_in_no_ratio() -> None:
    """As a censored run is in no paired difference of a stability test."""
    nan = math.nan
    theirs = bracketed("a", [(0.1, 0.1001)] * 3)
    mine = bracketed("b", [(0.4, 0.4001), (0.4, nan), (0.4, 0.4001)])
    for rows in ([*theirs, *mine], [*mine, *theirs]):
        row = compared(*rows)
        assert (row["pairs"], row["censored"], row["distinguished"]) == (2, 1, True)
        assert "2 of 3 seeds)" in said(table(*rows))
        assert "1 of 3 seeds, which are in no ratio" in said(table(*rows))
    ramps = [{**row, "ramp": 3.0, "ramp_bound": seed == 1} for seed, row in enumerate(mine)]
    row = compared(*theirs, *ramps, quantity="ramp")
    assert (row["pairs"], row["censored"]) == (2, 1)
    assert math.isclose(row["ratio"], 10)
    none = bracketed("b", [(0.4, nan)] * 3)
    row = compared(*theirs, *none)
    assert (row["pairs"], row["censored"], row["distinguished"]) == (0, 3, False)
    assert np.isnan([row["ratio"], row["low"], row["high"]]).all()
    assert "b's highest constant learning rate cannot be compared with a's" in said(
        table(*theirs, *none)
    )


def test_one_pair_has_no_interval() -> None:
    row = compared(*bracketed("a", [(0.1, 0.125)]), *bracketed("b", [(0.2, 0.25)]))
    assert math.isclose(row["ratio"], 2)
    assert np.isnan([row["low"], row["high"]]).all()
    assert not row["distinguished"]


def test_equal_rates_make_no_order() -> None:
    both = table({"ramp": 0.3}, {"arch": "post-ln", "ramp": 0.2})
    assert "By constant rates the order is pre-ln = post-ln, by the ramp pre-ln > post-ln" in said(
        both
    )
