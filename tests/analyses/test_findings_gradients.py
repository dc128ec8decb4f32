import math

import pandas as pd
import pytest

from gradlab.analyses.findings_gradients import mismatch_findings, nonfinite_gradients

STEPS = pd.DataFrame({"step": range(6), "grad_norm": [1.0, 1.0, math.inf, 1.0, math.nan, math.nan]})


def gradients(
    l1: dict[str, list[float]], steps: range = range(4), nonfinite: int = 0
) -> pd.DataFrame:
    """Gradients that are the same at each step: op → L1 of each layer's weight."""
    rows = [
        (step, f"blocks.{layer}.{op}.weight", layer, op, value)
        for step in steps
        for op, layers in l1.items()
        for layer, value in enumerate(layers)
    ]
    table = pd.DataFrame(rows, columns=["step", "param", "layer", "op", "grad_l1"])
    return table.astype({"layer": "Int64"}).assign(numel=10, nonfinite=nonfinite)


def test_the_steps_are_those_of_the_norm_and_the_parameters_those_first_recorded() -> None:
    table = pd.concat([gradients({"q": [1.0, 1.0, 1.0]}, range(step, step + 1)) for step in (0, 4)])
    table["nonfinite"] = [0, 0, 0, 0, 5, 10]
    (found,) = nonfinite_gradients(STEPS, table, attached=False, top=5)
    assert found.sentence == (
        "At 3 steps, first at step 2: 2, 4–5; at step 4, the first at which they were recorded, "
        "in 2 of 3 parameters."
    )
    assert found.table is not None
    assert found.table.to_numpy().tolist() == [
        ["blocks.2.q.weight", 10, 10, 1.0],
        ["blocks.1.q.weight", 5, 10, 0.5],
    ]


def test_without_the_probe_the_norm_is_enough() -> None:
    (found,) = nonfinite_gradients(STEPS, None, attached=False, top=5)
    assert found.sentence == "At 3 steps, first at step 2: 2, 4–5."
    assert found.table is None


def test_a_loop_of_ones_own_has_no_norm() -> None:
    missing = STEPS.assign(grad_norm=math.nan)
    assert nonfinite_gradients(missing, None, attached=True, top=5) == []
    finite = gradients({"q": [1.0]})
    assert nonfinite_gradients(missing, finite, attached=True, top=5) == []
    (found,) = nonfinite_gradients(missing, finite.assign(nonfinite=10), attached=True, top=5)
    assert found.sentence == (
        "At 4 steps, first at step 0: 0–3; at step 0, the first at which they were recorded, in 1 "
        "of 1 parameter, in every entry."
    )


def test_the_worst_mismatch_is_the_furthest_from_one_either_way() -> None:
    early = gradients({"q": [1.0, 1.0, 1.0, 1.0], "k": [2.0, 2.0, 1.0, 1.0]}, range(50))
    late = gradients({"q": [1.0, 1.0, 4.0, 4.0], "k": [3.0, 3.0, 1.0, 1.0]}, range(50, 100))
    (found,) = mismatch_findings(pd.concat([early, late]), top=5)
    assert found.sentence == (
        "q: the last layers' gradient is 4 times the first layers' over steps 50–99; over steps "
        "0–49, the two ends' gradients are equal."
    )
    assert found.table is not None
    assert found.table["op"].tolist() == ["q", "k"]
    assert found.table["early_ratio"].tolist() == pytest.approx([1.0, 2.0])
    assert found.table["late_ratio"].tolist() == pytest.approx([0.25, 3.0])
    (top,) = mismatch_findings(pd.concat([early, late]), top=1)
    assert top.table is not None
    assert len(top.table) == 1


def test_the_last_window_is_that_before_the_break() -> None:
    whole = gradients({"q": [2.0, 1.0]}, range(10))
    broken = gradients({"q": [0.0, 0.0]}, range(10, 30), nonfinite=10)
    (found,) = mismatch_findings(pd.concat([whole, broken]), top=5)
    assert "is 2 times the last layers' over steps 5–9; over steps 0–4" in found.sentence


def test_steps_at_which_some_gradient_was_not_finite_do_not_count() -> None:
    whole = gradients({"q": [2.0, 1.0]}, range(6))
    some = gradients({"q": [70.0, 1.0], "k": [1.0, 1.0]}, range(6, 9))
    some["nonfinite"] = [0, 0, 0, 5] * 3  # of the last layer's k
    again = gradients({"q": [2.0, 1.0]}, range(9, 10))
    (found,) = mismatch_findings(pd.concat([whole, some]), top=5)
    assert "is 2 times the last layers' over steps 3–5; over steps 0–2" in found.sentence
    (found,) = mismatch_findings(pd.concat([whole, some, again]), top=5)
    assert "is 2 times the last layers' over steps 5–9; over steps 0–4" in found.sentence
    assert mismatch_findings(some, top=5) == []


@pytest.mark.parametrize(
    ("layers", "words"),
    [([0.0, 1.0], "no gradient reached the first layers"), ([1.0, 0.0], "the last layers")],
)
def test_layers_that_no_gradient_reached_are_the_worst(layers: list[float], words: str) -> None:
    (found,) = mismatch_findings(gradients({"k": [9.0, 1.0], "q": layers}, range(1)), top=5)
    assert found.sentence.startswith("q: ")
    assert found.sentence.endswith(f"{words} over step 0.")


@pytest.mark.parametrize(
    "table",
    [
        gradients({"q": [1.0]}),
        gradients({"q": [1.0, 1.0]}).assign(layer=None),
        gradients({"q": [1.0, 1.0]}, nonfinite=3),
        gradients({"q": [0.0, 0.0]}),
        gradients({"q": [1.0, 1.0]}).iloc[:0],
    ],
)
def test_no_layers_no_mismatch(table: pd.DataFrame) -> None:
    assert mismatch_findings(table.astype({"layer": "Int64"}), top=5) == []
