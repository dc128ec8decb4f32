import numpy as np
import pandas as pd
import pytest

from gradlab.analyses.depth import entropy_courses, states_by_depth, vanishing_layers
from gradlab.analyses.findings_depth import (
    entropy_findings,
    state_depth_findings,
    vanishing_findings,
)
from gradlab.errors import GradlabError

COLUMNS = ("cosine", "cka", "first_branch", "last_branch", "mean_shift", "std_shift")


def hidden(
    cosine: float = 0.5, *, steps: int = 6, layers: int = 3, **columns: float
) -> pd.DataFrame:
    numbers = {"mean": 0.0, "std": 2.0, "input_mean": 0.0, "input_std": 1.0, "cosine": cosine}
    numbers |= {name: 0.1 for name in COLUMNS if name not in numbers} | columns
    return pd.DataFrame(
        [
            {"step": 10 * step, "site": f"blocks.{layer}", "layer": layer, **numbers}
            for step in range(steps)
            for layer in range(layers)
        ]
    )


def entropy(of: list[list[float]], steps: int = 6) -> pd.DataFrame:
    """By layer and head, at every step."""
    return pd.DataFrame(
        [
            {"step": step, "site": f"s.{layer}", "layer": layer, "head": head, "entropy": value}
            for step in range(steps)
            for layer, heads in enumerate(of)
            for head, value in enumerate(heads)
        ]
    )


def grads(by_layer: list[list[float]]) -> pd.DataFrame:
    """Mean |g| by layer, at each step; two weights of a layer, one of them without entries."""
    return pd.DataFrame(
        [
            {
                "step": step,
                "param": f"blocks.{layer}.{name}",
                "layer": layer,
                "numel": numel,
                "grad_l1": size * 10 if name == "fc1.weight" else bias,
                "nonfinite": 0,
            }
            for layer, course in enumerate(by_layer)
            for step, size in enumerate(course)
            for name, numel, bias in (
                ("fc1.weight", 4, 0),
                ("fc2.weight", 6, 0),
                ("fc1.bias", 1, 9),
            )
        ]
    )


def test_states_by_depth() -> None:
    rows = hidden()
    rows["std"] = 1.0 + rows["layer"]
    rows["mean_shift"] = [np.nan] * 3 + [float(step) for step in range(1, 6) for _ in range(3)]
    others = hidden(layers=2).assign(site=lambda t: "decoder." + t["site"])
    found = states_by_depth(pd.concat([rows, others]))
    assert found[["step", "layer"]].to_numpy().tolist() == [
        [s, n] for s in (0, 50) for n in (0, 1, 2)
    ]
    assert found["variance"].tolist() == [1.0, 4.0, 9.0] * 2
    assert found["drift"].tolist() == [3.0] * 6
    assert found["low"].tolist() == [1.5, 2.0, 2.5] * 2
    assert found["high"].tolist() == [2.5, 4.0, 5.5] * 2


@pytest.mark.parametrize("of", [states_by_depth, entropy_courses])
def test_nothing_recorded(of) -> None:
    with pytest.raises(GradlabError, match="recorded"):
        of(pd.DataFrame())


@pytest.mark.parametrize(
    ("small", "expected"),
    [
        ([1e-4] * 6, [(0, 0, 6)]),
        ([1.0, 1e-4, 1.0, 1e-4, 1e-4, 1e-4], [(0, 3, 3)]),  # from where on it always was
        ([1e-4, 1e-4, 1e-4, 1e-4, 1e-4, 1.0], []),  # and no more
        ([2e-3] * 6, []),
        ([1e-4, 1e-5, 0.0, 0.0, 0.0, 0.0], [(0, 0, 6)]),  # in the end nothing is left
        ([0.0] * 6, []),  # which is another finding
    ],
)
def test_layers_that_vanish(small: list[float], expected: list[tuple[int, int, int]]) -> None:
    table = grads([small, [1.0] * 6, [0.5] * 6])
    found = vanishing_layers(table)
    assert found[["layer", "since", "looks"]].to_numpy().tolist() == [list(row) for row in expected]
    told = vanishing_findings(table, top=5)
    assert len(told) == bool(expected)
    if expected:
        assert f"from step {expected[0][1]} on" in told[0].sentence
        assert not told[0].is_fact


def test_the_share_is_that_of_the_median() -> None:
    found = vanishing_layers(grads([[1e-4, 2e-4, 6e-4], [1.0] * 3]))
    assert found["share"].item() == pytest.approx(2e-4)
    assert vanishing_layers(grads([[1.0, 2.0]])).empty
    assert vanishing_layers(grads([[1e-2] * 3, [1.0] * 3]), share=0.1)["layer"].tolist() == [0]


def test_a_chance_look_is_no_vanishing() -> None:
    """As stochastic depth has it, whose branches get no gradient where they were left out."""
    course = [1.0] * 20 + [0.0] * 2
    assert vanishing_findings(grads([course, [1.0] * 22]), top=5) == []


@pytest.mark.parametrize(
    ("cosine", "steps", "collapsed"), [(0.995, 6, True), (0.9, 6, False), (0.995, 2, False)]
)
def test_collapse(cosine: float, steps: int, collapsed: bool) -> None:
    rows = hidden(steps=steps)
    rows.loc[rows["layer"] > 0, "cosine"] = cosine
    found = {finding.what: finding for finding in state_depth_findings(rows, top=5)}
    assert ("collapse of states" in found) == collapsed
    assert found["hidden states"].is_fact
    if collapsed:
        assert "blocks.1, blocks.2" in found["collapse of states"].sentence
        assert "blocks.0" not in found["collapse of states"].sentence


def test_a_collapse_that_has_passed_is_none() -> None:
    rows = hidden()
    rows.loc[rows["step"] < 40, "cosine"] = 0.999
    assert [f.what for f in state_depth_findings(rows, top=5)] == ["hidden states"]


@pytest.mark.parametrize(
    ("of", "whats"),
    [
        ([[0.97, 0.98], [0.95, 0.99]], []),
        ([[0.9992, 0.9995], [0.9996, 0.9997]], []),  # as they begin
        ([[0.9992, 0.9995], [0.5, 0.9999]], ["uniform attention"]),
        ([[1.0, 1.0], [1.0, 1.0]], ["uniform attention"]),
        ([[0.9992, 0.7], [0.5, 0.001]], []),  # single heads may be anything
        ([[0.01, 0.001], [0.5, 0.9]], ["attention on one token"]),
    ],
)
def test_attention(of: list[list[float]], whats: list[str]) -> None:
    found = entropy_findings(entropy(of), top=5)
    assert [f.what for f in found if not f.is_fact] == whats
    assert found[-1].what == "attention entropy"
    assert [f.what for f in entropy_findings(entropy(of, steps=2), top=5) if not f.is_fact] == []


def test_entropy_over_steps() -> None:
    found = entropy_courses(entropy([[0.5, np.nan]], steps=1))
    assert found["lost"].tolist() == [False, True]
    assert found["value"].tolist()[0] == 0.5
