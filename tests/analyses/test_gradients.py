import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_runs import nano

from gradlab.analyses.gradients import (
    LAYER_COLUMNS,
    Window,
    gradients_by_layer,
    mismatch,
    mismatch_of_layers,
    windows_of,
)
from gradlab.config import RunConfig, ScheduleConfig
from gradlab.errors import GradlabError


def row(step: int, layer: int | None, l1: float, **fields: Any) -> dict[str, Any]:
    op = fields.get("op", "fc2")
    place = "final_norm" if layer is None else f"blocks.{layer}.feed_forward.{op}"
    return {
        "step": step,
        "param": f"{place}.weight",
        "layer": layer,
        "op": op,
        "numel": 100,
        "grad_l1": l1,
        "grad_l2": l1 / 10,
        "grad_max_abs": l1 / 50,
        "nonfinite": 0,
        **fields,
    }


def table(*rows: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(rows).astype({"layer": "Int64"})


def constant(*layers: float, steps: int = 3, **fields: Any) -> pd.DataFrame:
    """The same gradient at every step, a number a layer."""
    return table(*(row(s, n, l1, **fields) for s in range(steps) for n, l1 in enumerate(layers)))


def random_table(seed: int) -> pd.DataFrame:
    """Three ops with biases over six layers and twenty steps, a tenth of the rows not finite."""
    rng = np.random.default_rng(seed)
    rows = []
    for step in range(0, 40, 2):
        for layer in [*range(6), None]:
            for op, numel in (("fc1", 64), ("fc2", 128), ("q", 32)):
                for leaf in ("weight", "bias"):
                    name = f"x.{layer}.{op}.{leaf}"
                    bad = int(rng.integers(1, 5)) if rng.random() < 0.1 else 0
                    l1 = float(rng.lognormal())
                    rows.append(row(step, layer, l1, op=op, param=name, numel=numel, nonfinite=bad))
    return table(*rows)


@pytest.mark.parametrize("seed", range(3))
def test_means_agree_with_a_plain_loop(seed: int) -> None:
    grad_norms = random_table(seed)
    found = gradients_by_layer(grad_norms, first=10, last=25)
    assert tuple(found.columns) == LAYER_COLUMNS
    expected = []
    for op in ("fc1", "fc2", "q"):
        for layer in range(6):
            kept, left_out, steps = [], 0, set()
            for record in grad_norms.to_dict("records"):
                if record["param"] == f"x.{layer}.{op}.weight" and 10 <= record["step"] <= 25:
                    steps.add(record["step"])
                    left_out += record["nonfinite"] > 0
                    kept += [record["grad_l1"]] * (record["nonfinite"] == 0)
            numel = {"fc1": 64, "fc2": 128, "q": 32}[op]
            mean = math.fsum(kept) / len(kept)
            expected.append((op, layer, numel, len(steps), left_out, mean, mean / numel))
    pd.testing.assert_frame_equal(
        found, pd.DataFrame(expected, columns=list(LAYER_COLUMNS)), rtol=1e-12
    )


@pytest.mark.parametrize("seed", range(3))
def test_mismatch_agrees_with_numpy_on_the_pivoted_table(seed: int) -> None:
    grad_norms = random_table(seed)
    found = mismatch(grad_norms, first=0, last=39).set_index("op")
    weights = grad_norms[grad_norms["param"].str.endswith("weight") & grad_norms["layer"].notna()]
    finite = weights[weights["nonfinite"] == 0]
    means = finite.pivot_table(index="layer", columns="op", values="grad_l1", aggfunc="mean")
    for op, numel in (("fc1", 64), ("fc2", 128), ("q", 32)):
        l1 = means[op].to_numpy()
        ratio = (l1[0] + l1[1]) / (l1[4] + l1[5])
        slope, _ = np.polyfit(np.arange(6) / 5, np.log(l1 / numel), 1)
        assert found.loc[op, "ratio"] == pytest.approx(ratio, rel=1e-12)
        assert found.loc[op, "slope"] == pytest.approx(slope, rel=1e-9)
        assert found.loc[op, "left_out"] == (weights[weights["op"] == op]["nonfinite"] > 0).sum()


def test_a_known_mismatch() -> None:
    grad_norms = constant(8.0, 4.0, 2.0, 1.0)
    (found,) = mismatch(grad_norms, first=0, last=2, op="fc2").to_dict("records")
    assert found["ratio"] == 4.0
    # A halving a layer is a factor 8 over the whole depth.
    assert found["slope"] == pytest.approx(-math.log(8))
    assert (found["op"], found["layers"], found["left_out"]) == ("fc2", 4, 0)


@given(st.floats(-3, 3), st.integers(2, 40))
def test_an_exponential_profile_has_its_exponent_as_slope(slope: float, n_layers: int) -> None:
    layers = pd.DataFrame({"layer": range(n_layers), "left_out": 0})
    depth = layers["layer"] / (n_layers - 1)
    layers["grad_l1"] = 7 * np.exp(slope * depth)
    layers["grad_mean_abs"] = layers["grad_l1"] / 100
    found = mismatch_of_layers(layers, n_layers)
    assert found["slope"] == pytest.approx(slope, abs=1e-9)
    assert (found["ratio"] - 1) * slope <= 0


def test_steps_with_non_finite_entries_are_left_out_and_counted() -> None:
    grad_norms = pd.concat([constant(3.0, 1.0), table(row(3, 0, 1e6, nonfinite=2), row(3, 1, 1.0))])
    found = gradients_by_layer(grad_norms, first=0, last=3, op="fc2")
    assert found["grad_l1"].tolist() == [3.0, 1.0]
    assert found["left_out"].tolist() == [1, 0]
    assert found["steps"].tolist() == [4, 4]


def test_a_layer_that_was_never_finite_leaves_no_mismatch() -> None:
    grad_norms = pd.concat([constant(3.0), *(table(row(s, 1, 1.0, nonfinite=1)) for s in range(3))])
    layers = gradients_by_layer(grad_norms, first=0, last=2)
    assert layers["grad_l1"].isna().tolist() == [False, True]
    found = mismatch(grad_norms, first=0, last=2).iloc[0]
    assert math.isnan(found["ratio"])
    assert math.isnan(found["slope"])
    assert found["left_out"] == 3


def test_weights_only_and_only_inside_the_blocks() -> None:
    biases = constant(9.0, 9.0, param="blocks.0.feed_forward.fc2.bias")
    attention = constant(9.0, param="layers.0.self_attn.in_proj_bias", op="in_proj_bias")
    outside = table(row(0, None, 9.0, op="final_norm"))
    found = gradients_by_layer(
        pd.concat([biases, constant(2.0, 1.0), attention, outside]), first=0, last=2
    )
    assert found["op"].tolist() == ["fc2", "fc2"]
    assert found["grad_l1"].tolist() == [2.0, 1.0]


def test_weights_that_share_an_op_and_a_layer_are_added() -> None:
    experts = [
        row(step, 0, l1, param=f"blocks.0.experts.{expert}.fc2.weight")
        for step in range(2)
        for expert, l1 in enumerate([1.0, 5.0])
    ]
    # A step in which one expert is not finite does not shrink the sum.
    experts.append(row(2, 0, 1.0, param="blocks.0.experts.0.fc2.weight"))
    experts.append(row(2, 0, 0.0, param="blocks.0.experts.1.fc2.weight", nonfinite=9))
    (found,) = gradients_by_layer(table(*experts), first=0, last=2).to_dict("records")
    assert found["grad_l1"] == 6.0
    assert found["numel"] == 200
    assert found["grad_mean_abs"] == pytest.approx(0.03)
    assert found["left_out"] == 1


def test_one_layer_has_no_mismatch_and_three_compare_one_with_one() -> None:
    one = mismatch(constant(3.0), first=0, last=2).iloc[0]
    assert math.isnan(one["ratio"])
    assert math.isnan(one["slope"])
    assert mismatch(constant(3.0, 100.0, 1.0), first=0, last=2)["ratio"][0] == 3.0


def test_gradients_of_zero() -> None:
    late = mismatch(constant(1.0, 1.0, 0.0, 0.0), first=0, last=2).iloc[0]
    assert late["ratio"] == math.inf
    assert math.isnan(late["slope"])
    nothing = mismatch(constant(0.0, 0.0, 0.0, 0.0), first=0, last=2).iloc[0]
    assert math.isnan(nothing["ratio"])


def test_an_op_that_only_some_layers_have_keeps_its_depth() -> None:
    everywhere = constant(*[1.0] * 5)
    some = table(*(row(0, n, math.exp(-n), op="gate") for n in (1, 3)))
    found = mismatch(pd.concat([everywhere, some]), first=0, last=2).set_index("op")
    assert found.loc["gate", "slope"] == pytest.approx(-2 / (2 / 4))
    assert found.loc["gate", "ratio"] == pytest.approx(math.exp(2))


def test_what_was_not_recorded_is_said() -> None:
    grad_norms = constant(2.0, 1.0)
    with pytest.raises(GradlabError, match="unknown op 'fc3': did you mean 'fc2'"):
        gradients_by_layer(grad_norms, first=0, last=2, op="fc3")
    with pytest.raises(GradlabError, match="recorded in steps 10 to 20"):
        mismatch(grad_norms, first=10, last=20)


def config(**fields: Any) -> RunConfig:
    schedule = ScheduleConfig(lr=1e-3, warmup_steps=100)
    return nano(**{"schedule": schedule, "steps": 300, **fields})


def test_the_windows_follow_the_warm_up_and_end_the_run() -> None:
    assert windows_of(config()) == {"early": Window(100, 149), "late": Window(250, 299)}
    short = config(steps=8, schedule=ScheduleConfig(lr=1e-3, warmup_steps=2))
    assert windows_of(short, 3) == {"early": Window(2, 4), "late": Window(5, 7)}
    with pytest.raises(GradlabError, match="8 steps have no room for two windows of 4 after 2"):
        windows_of(short, 4)
    with pytest.raises(GradlabError, match="at least one"):
        windows_of(short, 0)
