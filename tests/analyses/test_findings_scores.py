import math

import pandas as pd
import pytest

from gradlab.analyses.findings_scores import largest_scores, score_findings


def scores(*rows: tuple[int, str, int | None, float | None, str]) -> pd.DataFrame:
    """(step, site, head, max_abs, bound), with max half of max_abs."""
    table = pd.DataFrame(rows, columns=["step", "site", "head", "max_abs", "bound"])
    table = table.astype({"head": "Int64", "max_abs": "float64"})
    return table.assign(max=table["max_abs"] / 2)


def test_each_heads_largest_score() -> None:
    table = scores(
        *((0, "s", 0, 10.0, "exact"), (1, "s", 0, 40.0, "exact"), (2, "s", 0, 30.0, "exact")),
        (0, "s", 1, 20.0, "exact"),
        *((1, "t", None, 90.0, "upper"), (1, "t", None, 5.0, "lower")),
        (1, "u", 0, 70.0, "upper"),
    )
    found = largest_scores(table)
    assert found[["site", "size", "step", "bound"]].to_numpy().tolist() == [
        ["s", 40.0, 1, "exact"],
        ["s", 20.0, 0, "exact"],
        ["t", 5.0, 1, "lower"],
        ["u", 70.0, 1, "upper"],  # may be no larger than 0: it comes last
    ]
    assert found["headroom_bits"][0] == pytest.approx(math.log2(65504 / 40))


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ((3, "s", 2, 4094.0, "exact"), "s, head 2, step 3: |score| 4094, 4.0 bits under FP16's"),
        ((3, "s", None, 32752.0, "exact"), "s, step 3: |score| 32752, near FP16's limit: 1.0 bits"),
        ((3, "s", 0, 131008.0, "lower"), "|score| at least 131008, 1.0 bits past FP16's"),
        ((3, "s", 0, 8.0, "upper"), "|score| at most 8, 13.0 bits under"),
    ],
)
def test_how_near_to_the_limit(row: tuple[int, str, int | None, float, str], sentence: str) -> None:
    (found,) = score_findings(scores(row), top=5)
    assert sentence in found.sentence
    assert found.table is not None
    assert found.table["site"].tolist() == ["s"]


def test_a_lower_bound_is_told_with_the_upper_ones() -> None:
    table = scores(
        (0, "s", 0, 9.0, "lower"), (0, "s", 0, 30.0, "upper"), (1, "t", 0, 20.0, "upper")
    )
    (found,) = score_findings(table, top=5)
    assert found.sentence.startswith("Largest at s, head 0, step 0: |score| at least 9, 12.8 bits")
    assert found.sentence.endswith("; by the upper bounds no score was over 30.")


def test_scores_that_are_not_finite() -> None:
    table = scores(
        *((1, "s", 0, 9.0, "exact"), (2, "s", 0, math.inf, "exact"), (3, "s", 0, None, "exact")),
        (0, "t", 0, math.inf, "upper"),
    )
    lost, largest = score_findings(table, top=5)
    assert lost.sentence == "First at s, step 2; at 2 steps in all."
    assert "step 1: |score| 9," in largest.sentence
    # −inf at a pair that is not masked does no harm to the softmax.
    assert score_findings(scores((0, "s", 0, math.inf, "exact")).assign(max=3.0), top=5) == []


def test_where_only_the_signed_maximum_is_known() -> None:
    (found,) = score_findings(scores((0, "s", 0, None, "exact")).assign(max=-8.0), top=5)
    assert "|score| 8, 13.0 bits" in found.sentence


def test_no_rows() -> None:
    assert score_findings(scores(), top=5) == []


def headroom(*rows: tuple[int, str, str, int]) -> pd.DataFrame:
    """(step, site, direction, entries that are not finite)."""
    table = pd.DataFrame(rows, columns=["step", "site", "direction", "nonfinite"])
    bits = table["nonfinite"].map(lambda count: -math.inf if count else 9.0)
    return table.assign(headroom_bits=bits)


@pytest.mark.parametrize(
    ("rows", "cause"),
    [
        ([(2, "fc1", "forward", 8), (2, "s", "forward", 4)], "fc1 (forward), step 2"),
        ([(1, "fc1", "backward", 8), (2, "fc1", "forward", 4)], "fc1 (backward), step 1"),
        ([(1, "fc1", "backward", 8)], "fc1 (backward), step 1"),  # step 2 was not looked at
        ([(2, "s", "forward", 4), (2, "fc1", "forward", 8)], None),
        ([(2, "s", "forward", 0), (2, "fc1", "backward", 8)], None),
        ([(2, "s.out", "forward", 8), (2, "s", "forward", 4)], None),  # before them or after?
        ([(2, "fc1", "forward", 8)], None),
        ([(1, "fc1", "backward", 8), (2, "fc1", "forward", 0)], None),  # all was well again
        ([(3, "fc1", "forward", 8)], None),
    ],
)
def test_scores_that_follow_from_elsewhere_are_no_beginning(
    rows: list[tuple[int, str, str, int]], cause: str | None
) -> None:
    table = scores((1, "s", 0, 9.0, "exact"), (2, "s", 0, math.inf, "exact"))
    lost, _ = score_findings(table, headroom((0, "fc1", "forward", 0), *rows), top=5)
    start = "First" if cause is None else f"Only after {cause}: first"
    assert lost.sentence == f"{start} at s, step 2; at 1 step in all."
