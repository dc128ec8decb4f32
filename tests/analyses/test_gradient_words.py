import math
from typing import Any

import pytest

from gradlab.analyses.gradient_words import difference_sentence, runs_text
from gradlab.analyses.wording import mean_text


def difference(**fields: Any) -> dict[str, Any]:
    row = {
        "op": "fc2",
        "window": "late",
        "baseline": "pre-ln",
        "arch": "normformer",
        "seeds": 3,
        "pairs": 3,
        "quotient": 0.8333,
        "low": 0.75,
        "high": 0.92,
        "distinguished": True,
    }
    return {**row, **fields}


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (
            {},
            "normformer's late fc2 mismatch is 0.833 times pre-ln's "
            "(95 % interval 0.75 to 0.92, 3 seeds).",
        ),
        (
            {"high": 1.1, "distinguished": False, "pairs": 2},
            "normformer's late fc2 mismatch is not distinguished from pre-ln's: it is 0.833 times "
            "that on average (95 % interval 0.75 to 1.1, 2 of 3 seeds).",
        ),
        (
            {"pairs": 1, "low": math.nan, "high": math.nan, "distinguished": False},
            "normformer's late fc2 mismatch is 0.833 times pre-ln's on the one seed of both: "
            "not distinguished.",
        ),
        (
            {"pairs": 0, "quotient": math.nan, "distinguished": False},
            "normformer's late fc2 mismatch cannot be compared with pre-ln's: no seed has one "
            "under both.",
        ),
    ],
)
def test_a_difference_in_words(fields: dict[str, Any], sentence: str) -> None:
    assert difference_sentence(difference(**fields)) == sentence


def test_how_many_runs_are_behind_a_row() -> None:
    assert runs_text({"runs": 3, "left_out": 0}, 3) == "3"
    assert runs_text({"runs": 2, "left_out": 7}, 3) == "2 of 3 (7 rows left out)"


def test_means_and_ranges() -> None:
    row = {"slope": -0.5, "slope_min": -0.625, "slope_max": 0.1}
    assert mean_text(row, "slope", 3) == "−0.5 (−0.625 to 0.1)"
    assert mean_text(row, "slope", 1) == "−0.5"
    assert mean_text({**row, "slope": math.nan}, "slope", 3) == "–"
    assert mean_text({}, "slope", 0) == "–"
