import math
from typing import Any

import pandas as pd
import pytest

from gradlab.analyses.findings_scales import lost_updates, scale_findings, scale_moves


def scales(**vectors: list[list[float]]) -> pd.DataFrame:
    """Parameter → its vector at steps 0, 1, 2, …"""
    rows = [
        (step, name, index, value)
        for name, course in vectors.items()
        for step, vector in enumerate(course)
        for index, value in enumerate(vector)
    ]
    table = pd.DataFrame(rows, columns=["step", "param", "index", "value"])
    return table.sort_values("step", kind="stable", ignore_index=True)


def test_how_far_entries_went() -> None:
    table = scales(
        gamma=[[1.0, 1.0, 1.0], [5.0, 0.5, 1.0], [2.0, -0.1, 1.0]],
        still=[[0.25, 0.25, 0.25]] * 3,
        layer_scale=[[1e-5] * 3, [1e-4] * 3, [3e-5] * 3],
        zero=[[0.0] * 3, [0.0, 0.3, -0.2], [0.0] * 3],
    )
    found = scale_moves(table).set_index("param")
    assert found.index.tolist() == ["layer_scale", "gamma", "still", "zero"]
    gamma = found.loc["gamma"]
    assert gamma[["start", "low", "high", "grew", "step", "flipped"]].tolist() == [
        *(1.0, -0.1, 5.0, 5.0, 1, 1)
    ]
    assert gamma["shrank"] == pytest.approx(10)
    assert found.loc["layer_scale", "grew"] == pytest.approx(10)
    assert found.loc["still", ["grew", "shrank", "step", "flipped"]].tolist() == [1.0, 1.0, 0, 0]
    # What began at 0 is measured against 1.
    assert found.loc["zero", ["grew", "shrank", "flipped"]].tolist() == [0.3, 1.0, 0]


def test_the_sentence_counts_extremes() -> None:
    table = scales(a=[[1.0, 2.0], [4.5, 2.0]], b=[[1.0], [0.2]], c=[[1.0], [-1.1]])
    (found,) = scale_findings(table, top=2)
    assert found.sentence == (
        "a grew most, to 4.5 times its start at step 1; b shrank most, to 0.2 of its start; 2 of 3 "
        "learned scales have an entry over 4 times its start or under 1/4 of it, and 1 entry "
        "changed sign."
    )
    assert found.table is not None
    assert found.table["param"].tolist() == ["b", "a"]  # those that moved furthest
    assert found.table["start"].tolist() == [1.0, 1.5]


@pytest.mark.parametrize(
    ("course", "words"),
    [
        ([1.0, 1.00312], "a grew most, by 0.312 % at step 1; "),
        ([1.0, 1.0004, 1.0002], "a grew most, by 0.04 % at step 1; "),
        ([-2.0, -2.6], "a grew most, to 1.3 times its start at step 1; "),
        ([1.0, 1.00009], "None grew by 0.01 % of its start; "),
        ([1.0, 0.5], "None grew by 0.01 % of its start; "),
        ([0.0, -0.3], "a grew most, from 0 to 0.3 at step 1; "),
        ([0.0, 0.0], "None grew by 0.01 % of its start; "),
    ],
)
def test_growth_has_enough_digits(course: list[float], words: str) -> None:
    (found,) = scale_findings(scales(a=[[value] for value in course]), top=5)
    assert found.sentence.startswith(words)


def test_values_that_are_not_finite_are_told_apart() -> None:
    lost, moved = scale_findings(scales(a=[[1.0], [math.nan]], b=[[1.0], [math.inf]]), top=5)
    assert lost.sentence == "First in a at step 1, in 2 parameters in all."
    assert moved.sentence.startswith("None grew by 0.01 % of its start; 0 of 2")
    assert [found.what for found in scale_findings(scales(a=[[math.nan]]), top=5)] == [
        "scales not finite"
    ]


def test_no_rows() -> None:
    assert scale_findings(scales(a=[[1.0]]).iloc[:0], top=5) == []


@pytest.mark.parametrize(
    ("change", "lost"),
    [
        ({}, True),
        ({"last": 1.0 + 2**-7}, False),
        ({"all": math.nan}, False),
        ({"looks": 4}, False),
        ({"dtypes": {}}, False),
        ({"lr": 0.0}, False),
        ({"skipped": True}, False),
        ({"gradient": 0.0}, False),
    ],
)
def test_updates_that_rounding_takes_away(change: dict[str, Any], lost: bool) -> None:
    looks = change.get("looks", 5)
    table = scales(
        gamma=[[change.get("all", 1.0)] * 2] * (looks - 1)
        + [[change.get("all", 1.0), change.get("all", change.get("last", 1.0))]],
        other=[[1.0 + 0.01 * step] for step in range(looks)],
    )
    n = range(looks)
    norms = pd.DataFrame({"step": n, "param": "gamma", "grad_max_abs": change.get("gradient", 0.1)})
    steps = pd.DataFrame(
        {"step": n, "skipped": change.get("skipped", False), "lr": change.get("lr", 1e-4)}
    )
    dtypes = change.get("dtypes", {"gamma": "bfloat16", "other": "bfloat16"})
    found = lost_updates(table, norms, steps, dtypes)
    assert [finding.what for finding in found] == ["updates lost"] * lost
    if lost:
        assert "gamma never changed" in found[0].sentence
        assert "at 1 bfloat16 numbers are up to 0.00781 apart" in found[0].sentence
