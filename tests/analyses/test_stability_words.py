import math
from typing import Any

import pandas as pd
import pytest

from gradlab.analyses.stability_table import COLUMNS
from gradlab.analyses.stability_words import (
    break_sentences,
    difference_sentence,
    difference_sentences,
)


def difference(**fields: Any) -> dict[str, Any]:
    row = {
        "size": "nano",
        "lr_step": 2e-4,
        "baseline": "pre-ln",
        "arch": "normformer",
        "seeds": 3,
        "pairs": 3,
        "censored": 0,
        "missing": 0,
        "ratio": 0.85,
        "low": 0.8,
        "high": 0.91,
        "distinguished": True,
    }
    return {**row, **fields}


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({}, "normformer breaks 15 % lower than pre-ln (95 % interval −20 to −9.0 %, 3 seeds)."),
        (
            {"ratio": 1.5, "low": 1.1, "high": 2.2},
            "normformer breaks 50 % higher than pre-ln (95 % interval +10 to +120 %, 3 seeds).",
        ),
        (
            {"high": 1.02, "distinguished": False},
            "normformer is not distinguished from pre-ln: its break is 15 % lower on average "
            "(95 % interval −20 to +2.0 %, 3 seeds).",
        ),
        (
            {"pairs": 2, "censored": 1},
            "normformer breaks 15 % lower than pre-ln (95 % interval −20 to −9.0 %, 2 seeds; "
            "pairs left out: 1 censored).",
        ),
        (
            {"pairs": 1, "low": math.nan, "high": math.nan, "distinguished": False, "missing": 2},
            "normformer broke 15 % lower than pre-ln on the one seed of both: not distinguished; "
            "pairs left out: 2 missing.",
        ),
        (
            {"pairs": 0, "ratio": math.nan, "distinguished": False, "censored": 3},
            "normformer and pre-ln cannot be compared: no seed broke under both; "
            "pairs left out: 3 censored.",
        ),
    ],
)
def test_a_difference_in_words(fields: dict[str, Any], sentence: str) -> None:
    assert difference_sentence(difference(**fields)) == sentence


def study(*rows: tuple[Any, ...]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(COLUMNS))


def run(
    arch: str, seed: int, lr: float | None, reason: str = "loss_nonfinite", ramp: float = 2e-4
) -> tuple[Any, ...]:
    site = "blocks.0.attention.scores" if reason == "loss_nonfinite" else None
    rest = (reason, 1, lr, reason == "completed", site, lr, None)
    return ("nano", 300_000, arch, seed, ramp, *rest)


def test_what_broke_is_said_with_medians_ranges_bounds_and_causes() -> None:
    first, second = break_sentences(
        study(
            run("pre-ln", 0, 0.141),
            run("pre-ln", 1, 0.139),
            run("pre-ln", 2, 0.150, "loss_rise"),
            run("normformer", 0, 0.8, "completed"),
            run("normformer", 1, 0.8, "completed"),
            run("normformer", 2, None, "error"),
        )
    )
    assert first == (
        "pre-ln at nano, LR rising by 0.0002 a step: LR at the break 0.141 (0.139 to 0.15), "
        "runs 3, first overflow blocks.0.attention.scores (2 of 3)."
    )
    assert second == (
        "normformer at nano, LR rising by 0.0002 a step: LR at the break ≥0.8, "
        "runs 3 (2 censored, 1 failed), first overflow –."
    )


def test_a_break_without_an_overflow_has_its_reason() -> None:
    (row,) = break_sentences(
        study(
            run("pre-ln", 0, 0.2, "loss_rise"),
            run("pre-ln", 1, 0.2, "loss_rise"),
            run("pre-ln", 2, 0.2, "loss_scale_floor"),
        )
    )
    assert row.endswith(
        "LR at the break 0.2, runs 3, first overflow none: the loss rose for good (2 of 3)."
    )


def test_each_ramp_has_a_table_and_its_sentences() -> None:
    table = study(
        *(
            run(arch, seed, 0.1 + seed / 100, ramp=ramp)
            for ramp in (2e-4, 5e-5)
            for arch in ("pre-ln", "normformer")
            for seed in range(2)
        )
    )
    sentences = difference_sentences(table)
    assert [sentence.split(":")[0] for sentence in sentences] == [
        "nano, 0.0002 a step",
        "nano, 5e-05 a step",
    ]


def test_a_study_without_results_has_nothing_to_say() -> None:
    assert break_sentences(study()) == []
    assert difference_sentences(study()) == []
