import math

import numpy as np
import pandas as pd
import pytest

from gradlab.analyses.findings_headroom import early_and_late, headroom_findings, least_headroom


def rows(
    bits: dict[str, list[float]], *, direction: str = "forward", dtype: str = "float16"
) -> pd.DataFrame:
    """A site's headroom at steps 0, 1, …, in the order in which a run has the rows."""
    count = len(next(iter(bits.values())))
    table = pd.DataFrame(
        [(step, site, values[step]) for step in range(count) for site, values in bits.items()],
        columns=["step", "site", "headroom_bits"],
    )
    largest = 65504 / 2.0 ** table["headroom_bits"]
    return table.assign(direction=direction, dtype=dtype, max_abs=largest)


def test_agrees_with_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    bits = {f"s{i}": rng.normal(8, 3, size=41).tolist() for i in range(6)}
    found = least_headroom(rows(bits)).set_index("site")
    assert found["least_bits"].is_monotonic_increasing
    for site, values in bits.items():
        row = found.loc[site]
        early, late = sum(values[:5]) / 5, sum(values[-5:]) / 5  # 0–4 and 36–40
        assert row["least_bits"] == min(values)
        assert row["step"] == values.index(min(values))
        assert row["early_bits"] == pytest.approx(early)
        assert row["late_bits"] == pytest.approx(late)
        assert row["change_bits"] == pytest.approx(late - early)


def test_a_gradient_of_zeros_has_no_headroom_to_speak_of() -> None:
    dead = rows({"a": [math.inf, math.inf]}, direction="backward")
    alive = rows({"b": [math.inf, 9.0]}, direction="backward")
    output = rows({"a": [3.0, 3.0]})
    assert len(headroom_findings(pd.concat([output, dead]), top=2)) == 1
    _, found = headroom_findings(pd.concat([output, dead, alive]), top=2)
    assert found.sentence.startswith("Least at b gradient: 9.0 bits at step 1")


def test_windows() -> None:
    assert early_and_late(pd.Series(range(101))) == ((0, 10), (90, 100))
    assert early_and_late(pd.Series([0, 4, 8, 100])) == ((0, 8), (100, 100))  # recorded ones
    assert early_and_late(pd.Series([7])) == ((7, 7), (7, 7))


def test_the_tightest_sites_and_the_tightest_gradient() -> None:
    outputs = rows({"a": [9.0, 8.0], "b": [3.0, 1.5], "c": [5.0, 7.0]})
    gradients = rows({"a": [0.5, 4.0]}, direction="backward")
    found = headroom_findings(pd.concat([outputs, gradients]), top=2)
    assert [finding.what for finding in found] == ["least headroom", "gradient headroom"]
    assert found[0].sentence == (
        f"b: 1.5 bits left at step 1 (max |x| {65504 / 2**1.5:.3g}); it lost 1.5 bits on "
        "average from step 0 to step 1."
    )
    table = found[0].table
    assert table is not None
    assert table["site"].tolist() == ["b", "c"]
    assert "dtype" not in table
    assert found[1].sentence == (
        "Least at a gradient: 0.5 bits at step 0, with the loss scale in it."
    )


def test_a_headroom_that_stayed_is_not_said_to_have_changed() -> None:
    for late, says in ((1.54, False), (1.45, True), (1.58, True)):
        sentence = headroom_findings(rows({"a": [1.51, late]}), top=1)[0].sentence
        assert ("on average" in sentence) == says


def test_a_step_with_an_overflow_does_not_count() -> None:
    table = rows({"a": [9.0, 8.0, -math.inf], "b": [6.0, 6.0, 0.1]})
    found = headroom_findings(table, top=5)[0].table
    assert found is not None
    assert found[["site", "least_bits"]].to_numpy().tolist() == [["b", 6.0], ["a", 8.0]]


def test_an_overflow_on_the_way_back_leaves_the_way_forth_as_it_was() -> None:
    forward = rows({"a": [5.0, 4.0]})
    backward = rows({"a": [3.0, -math.inf], "b": [2.0, 1.0]}, direction="backward")
    found = headroom_findings(pd.concat([forward, backward]), top=5)
    assert found[0].sentence.startswith("a: 4.0 bits left at step 1")
    assert found[1].sentence.startswith("Least at b gradient: 2.0 bits at step 0")


def test_only_overflows() -> None:
    (found,) = headroom_findings(rows({"a": [-math.inf]}), top=5)
    assert found.sentence == "At every recorded step something was not finite."


def test_wider_tensors_count_only_where_none_is_fp16() -> None:
    wide, narrow = rows({"w": [-1.0]}, dtype="float32"), rows({"n": [4.0]})
    assert headroom_findings(pd.concat([wide, narrow]), top=5)[0].sentence.startswith("n: 4.0 bits")
    (found,) = headroom_findings(wide, top=5)
    assert found.sentence == (
        "w: 1.0 bits past FP16's limit at step 0 (max |x| 131008), if it were FP16, which no "
        "tensor here is."
    )


def test_a_single_step_has_no_trend() -> None:
    (found,) = headroom_findings(rows({"a": [4.0]}), top=5)
    assert found.sentence == "a: 4.0 bits left at step 0 (max |x| 4094)."
    assert found.table is not None
    assert math.isnan(found.table["change_bits"][0])


def test_nothing_to_say() -> None:
    assert headroom_findings(rows({"a": [math.nan]}), top=5) == []
    assert headroom_findings(rows({"a": [1.0]}).iloc[:0], top=5) == []
    assert least_headroom(rows({"a": [1.0]}).iloc[:0]).empty
