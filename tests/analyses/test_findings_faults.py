"""Sentences from the table `faults`, on tables made by hand."""

from typing import Any

import pandas as pd
import pytest

from gradlab.analyses.findings_faults import came_from, input_findings, state_findings
from gradlab.analyses.findings_overflow import overflow_findings
from gradlab.analyses.findings_zeros import dead_sites, zero_findings

COLUMNS = [
    *("step", "order", "rank", "what", "name", "direction", "dtype", "kind", "count", "numel"),
    "producer",
]


def faults(*rows: dict[str, Any]) -> pd.DataFrame:
    common = {"rank": 0, "count": 2, "numel": 4, "kind": "nan", "dtype": "float32"}
    table = pd.DataFrame([{**common, **row} for row in rows], columns=COLUMNS)
    return table.astype({"count": "Int64", "numel": "Int64", "order": "Int64"})


def steps(last: int, skipped: tuple[int, ...] = ()) -> pd.DataFrame:
    n = list(range(last + 1))
    return pd.DataFrame({"step": n, "skipped": [step in skipped for step in n], "lr": 0.1})


def gradients(**sizes: list[float]) -> pd.DataFrame:
    """A column a parameter, its largest magnitude at each step."""
    rows = [
        {"step": step, "param": name.replace("_", "."), "grad_max_abs": size, "nonfinite": 0}
        for name, column in sizes.items()
        for step, size in enumerate(column)
    ]
    return pd.DataFrame(rows)


def looks(site: str, sizes: list[float]) -> pd.DataFrame:
    rows = [(step, site, "forward", size) for step, size in enumerate(sizes)]
    table = pd.DataFrame(rows, columns=["step", "site", "direction", "max_abs"])
    return table.assign(dtype="float16", underflow_frac=0.0)


def zeros(site: str, at: list[int], **more: Any) -> list[dict[str, Any]]:
    row = {"what": "activation", "name": site, "kind": "zero", "order": 1, "count": 4, **more}
    return [{**row, "step": step} for step in at]


def test_an_update_is_the_optimizers_doing() -> None:
    row = {"step": 3, "what": "update", "name": "emb.weight", "producer": "Adam (ε = 1e-08 is 0 …)"}
    (found,) = state_findings(faults(row), steps(5), None, top=5)
    assert found.what == "parameters not finite"
    assert found.sentence.startswith(
        "emb.weight: 2 of 4 entries NaN since the optimizer's update of step 3, whose gradient was "
        "finite. Adam's ε = 1e-08 is 0 …, so"
    )
    assert found.table is None


@pytest.mark.parametrize("said_by", ["probe", "grad_norms"])
def test_an_update_by_a_gradient_that_was_not_finite(said_by: str) -> None:
    producer = "a.w gradient" if said_by == "probe" else "SGD"
    table = faults(
        {"step": 3, "what": "update", "name": "a.w", "producer": producer, "kind": "inf"},
        {"step": 3, "what": "update", "name": "b.w", "producer": "SGD"},
    )
    norms = gradients(a_w=[1, 1, 1, 1]).assign(nonfinite=[0, 0, 0, 2])
    (found,) = state_findings(table, steps(5), None if said_by == "probe" else norms, top=5)
    assert found.sentence == (
        "a.w: 2 of 4 entries infinite since the optimizer's update of step 3, as its gradient was "
        "not finite; 2 parameters in all."
    )
    assert found.table is not None
    assert found.table["name"].tolist() == ["a.w", "b.w"]


def test_a_parameter_that_no_update_broke() -> None:
    table = faults({"step": 0, "what": "parameter", "name": "a.w", "count": None, "rank": 1})
    (found,) = state_findings(table, steps(5), None, top=5)
    assert found.sentence == (
        "a.w: NaN entries since before the pass of step 0 on rank 1; no update of the optimizer "
        "made it so."
    )


@pytest.mark.parametrize("skipped", [(), (1,)])
def test_a_buffer(skipped: tuple[int, ...]) -> None:
    table = faults({"step": 1, "what": "buffer", "name": "bn.running_var"})
    (found,) = state_findings(table, steps(5, skipped), None, top=5)
    assert found.sentence.startswith("bn.running_var: 2 of 4 entries NaN since step 1;")
    assert ("the scaler" in found.sentence) == bool(skipped)
    assert "valuation reads it" in found.sentence


def test_an_input() -> None:
    row = {"what": "input", "name": "x", "kind": "inf"}
    (found,) = input_findings(faults({**row, "step": 4}, {**row, "step": 6}))
    assert "argument x held 2 of 4 entries infinite at step 4" in found.sentence
    assert "1 later step too" in found.sentence


@pytest.mark.parametrize(
    ("producer", "said"),
    [
        (None, ""),
        ("fc", ""),
        ("fc.weight (parameter)", "; the parameter fc.weight was not finite already"),
        ("x (input)", "; the argument x was not finite already, as the model was given it"),
        ("block.1 (between its modules)", "; it arose in block.1, between its modules"),
    ],
)
def test_what_a_site_had_from_elsewhere(producer: str | None, said: str) -> None:
    assert came_from({"producer": producer}).startswith(said)
    assert bool(came_from({"producer": producer})) == bool(said)


def test_a_gradient_from_the_loss_blames_no_module() -> None:
    row = {"step": 2, "what": "gradient", "name": "fc", "direction": "backward", "order": 3}
    headroom = pd.DataFrame(
        [
            (2, "fc", "forward", "float32", 1.0, 0),
            (2, "fc", "backward", "float32", -float("inf"), 2),
        ],
        columns=["step", "site", "direction", "dtype", "headroom_bits", "nonfinite"],
    )
    (found,) = overflow_findings(
        steps(3), pd.DataFrame(), headroom, None, faults({**row, "producer": "the loss"})
    )
    assert found.what == "first not finite"
    assert found.sentence.startswith("From the loss, outside the model")
    assert "step 2" in found.sentence


# Dead for good, and healthy twins.


@pytest.mark.parametrize(
    ("zero", "sizes", "dead"),
    [
        ([0, 1], [0, 0], True),
        ([0, 1, 2, 3], [0, 0, 0, 0], True),
        ([0], [0], False),  # one look
        ([0], [0, 1, 1], False),  # starts at zero on purpose
        ([3], [1, 1, 1, 0, 1], False),  # a batch without an active entry
        ([2, 3, 7], [1, 1, 0, 0, 1, 1, 1, 0], False),  # stochastic depth
        ([3, 4], [1, 1, 1, 0, 0], False),  # not for long
        ([3, 4, 5, 6, 7], [1, 1, 1, 0, 0, 0, 0, 0], True),  # died, and few looks
        ([3, 4, 5, 6, 7], [1, 1, 1, 0, 0, 0, 0, 0, 1], False),  # came back
        ([7, 8, 9, 10, 11], [1] * 7 + [0] * 5, False),  # less than half of the looks
        (list(range(3, 13)), [1] * 3 + [0] * 10, True),  # died
    ],
)
def test_a_site_that_is_dead_for_good(zero: list[int], sizes: list[float], dead: bool) -> None:
    table = faults(*zeros("rms", zero))
    assert dead_sites(table, looks("rms", sizes)) == ({"rms": zero} if dead else {})


def test_the_gradients_below_a_dead_site() -> None:
    headroom = pd.concat([looks("proj", [300.0] * 3), looks("rms", [0.0] * 3)]).sort_values(
        ["step", "site"], kind="stable"
    )
    norms = gradients(proj_weight=[0, 0, 0], head_bias=[1, 1, 1])
    for dtype, helps in (("float16", True), ("bfloat16", False)):
        first, rest = zero_findings(faults(*zeros("rms", [0, 1, 2], dtype=dtype)), norms, headroom)
        assert first.sentence.startswith("rms: its whole output was zero at 3 steps (0–2)")
        assert "the gradients of proj.weight were exactly zero" in first.sentence
        assert ("FP32" in first.sentence) == helps
        assert "proj.weight" in rest.sentence


@pytest.mark.parametrize(
    ("dtype", "size", "small", "flushed"),
    [
        ("float16", 0.0, None, True),
        ("float16", 1e-7, 0.9, True),
        ("float16", 1e-2, 0.1, False),  # zero for another reason
        ("float32", 0.0, None, False),
        ("bfloat16", 1e-30, 1.0, False),
    ],
)
@pytest.mark.parametrize("head", [[0, 0], [1, 1]])
def test_gradients_that_are_too_small_for_fp16(
    dtype: str, size: float, small: float | None, flushed: bool, head: list[float]
) -> None:
    sites = looks("head", [size, size]).assign(direction="backward", dtype=dtype)
    sites["underflow_frac"] = small
    norms = gradients(embed_weight=[0, 0], head_weight=head)
    (found,) = zero_findings(faults(), norms, sites.astype({"underflow_frac": float}))
    assert ("They are FP16 from head on" in found.sentence) == flushed


@pytest.mark.parametrize(
    ("norms", "said"),
    [
        (gradients(a=[1, 0, 1], b=[2, 0, 2]), "Every gradient was exactly zero at step 1."),
        (gradients(a=[0, 0], b=[0, 0]), "at every step looked at"),
        (gradients(a=[0, 0, 0], b=[1, 2, 3]), "1 of 2 parameters"),
        (gradients(a=[0, 1, 0], b=[1, 2, 3]), None),
        (gradients(a=[0], b=[1]), None),  # one look
        (gradients(a=[1, 1], b=[1, 1]), None),
        (gradients(a=[1] * 4 + [0] * 5, b=[1] * 9), "1 of 2 parameters was exactly zero at many"),
        (gradients(a=[1] * 4 + [0] * 4, b=[1] * 8), None),  # not for long
        (gradients(a=[0] * 10 + [1] * 9, b=[1] * 19), "at many steps in a row: a."),
    ],
)
def test_gradients_that_are_zero(norms: pd.DataFrame, said: str | None) -> None:
    found = zero_findings(faults(), norms, None)
    assert [said in finding.sentence for finding in found] == [True] * (said is not None)
