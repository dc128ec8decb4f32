import math

import numpy as np
import pandas as pd
import pytest

from gradlab.analyses.headroom import gradient_overflows, tightest_by_layer
from gradlab.errors import GradlabError

STEPS = pd.DataFrame({"step": [0, 1, 2], "lr": [0.0, 0.1, 0.2]})


def rows(*items: tuple[int, int | None, str, float], direction: str = "forward") -> pd.DataFrame:
    columns = ["step", "layer", "site", "headroom_bits"]
    table = pd.DataFrame(items, columns=columns).astype({"layer": "Int64"})
    return table.assign(
        op="x", direction=direction, dtype="float16", max_abs=1.0, underflow_frac=None, nonfinite=0
    )


def test_the_site_with_the_least_headroom_of_each_layer_and_step() -> None:
    found = tightest_by_layer(
        rows((0, 0, "a", 3.0), (0, 0, "b", 1.0), (0, 1, "c", 2.0), (1, 0, "a", 0.5)), STEPS
    )
    assert found[["step", "layer", "site", "lr"]].to_numpy().tolist() == [
        [0, 0, "b", 0.0],
        [0, 1, "c", 0.0],
        [1, 0, "a", 0.1],
    ]


def test_agrees_with_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    items = [
        (step, layer, f"s{site}", float(rng.integers(-3, 8)))
        for step in range(3)
        for layer in (0, 1, None)
        for site in range(5)
    ]
    best: dict[tuple[int, int | None], tuple[float, str]] = {}
    for step, layer, site, bits in items:
        if (step, layer) not in best or bits < best[step, layer][0]:
            best[step, layer] = (bits, site)
    found = tightest_by_layer(rows(*items), STEPS)
    got = {
        (row.step, None if row.layer is pd.NA else row.layer): (row.headroom_bits, row.site)
        for row in found.itertuples()
    }
    assert got == best


def test_overflow_is_the_tightest_and_the_first_such_site_counts() -> None:
    found = tightest_by_layer(
        rows((2, 0, "q", 1.0), (2, 0, "scores", -math.inf), (2, 0, "softmax", -math.inf)), STEPS
    )
    assert found["site"].tolist() == ["scores"]
    assert found["headroom_bits"].tolist() == [-math.inf]


def test_sites_outside_the_blocks_come_last() -> None:
    found = tightest_by_layer(rows((0, None, "embed", 1.0), (0, 0, "a", 9.0)), STEPS)
    assert found["site"].tolist() == ["a", "embed"]
    assert found["layer"].isna().tolist() == [False, True]


def test_backward_sites_only_when_asked_for() -> None:
    both = pd.concat([rows((0, 0, "a", 5.0)), rows((0, 0, "a", 0.1), direction="backward")])
    assert tightest_by_layer(both, STEPS)["headroom_bits"].tolist() == [5.0]
    assert tightest_by_layer(both, STEPS, direction="backward")["headroom_bits"].tolist() == [0.1]
    assert tightest_by_layer(both, STEPS, direction=None)["direction"].tolist() == ["backward"]


def test_wider_tensors_count_only_where_none_is_fp16() -> None:
    table = rows((0, 0, "residual", -2.0), (0, 0, "scores", 3.0))
    table["dtype"] = ["float32", "float16"]
    assert tightest_by_layer(table, STEPS)["site"].tolist() == ["scores"]
    table["dtype"] = ["float32", "bfloat16"]
    assert tightest_by_layer(table, STEPS)["site"].tolist() == ["residual"]


def test_rows_without_a_figure_are_left_out() -> None:
    found = tightest_by_layer(rows((0, 0, "a", math.nan), (0, 0, "b", 4.0)), STEPS)
    assert found["site"].tolist() == ["b"]


def test_an_empty_table_stays_empty() -> None:
    found = tightest_by_layer(rows((0, 0, "a", 1.0)).iloc[:0], STEPS)
    assert found.empty
    assert "lr" in found.columns


def test_a_step_that_was_not_recorded_is_refused() -> None:
    with pytest.raises(GradlabError, match="step 9"):
        tightest_by_layer(rows((9, 0, "a", 1.0)), STEPS)


def test_only_gradients_overflows_are_marked() -> None:
    overflows = pd.DataFrame(
        {"step": [0, 1, 1, 2], "direction": ["forward", "backward", "backward", "backward"]}
    )
    found = gradient_overflows(overflows, STEPS)
    assert found.to_dict("list") == {"step": [1, 2], "lr": [0.1, 0.2]}


def test_a_step_may_have_no_rate() -> None:
    """As of a loop whose optimizer is not known."""
    found = tightest_by_layer(rows((0, 0, "a", 3.0)), STEPS.assign(lr=math.nan))
    assert found["site"].tolist() == ["a"]
