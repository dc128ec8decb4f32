import math

import pandas as pd
import pytest

from gradlab.analyses.findings_gradients import mismatch_findings
from gradlab.analyses.findings_growth import growth_findings

NAN, INF = math.nan, math.inf


def course(
    losses: list[float], norms: list[float], rates: list[float] | None = None
) -> pd.DataFrame:
    rates = rates or [1e-3] * len(losses)
    columns = {"step": range(len(losses)), "loss": losses, "grad_norm": norms, "lr": rates}
    return pd.DataFrame(columns)


@pytest.mark.parametrize(
    ("losses", "norms", "diverged"),
    [
        ([2.0, 1.0, 5e4, INF], [3.0, 1.0, 4e3, INF], True),
        ([2.0, 1.0, 5e4, 5e8], [3.0, 1.0, 4e3, 1e9], True),
        ([2.0, 1.0, NAN, NAN], [3.0, 1.0, NAN, NAN], False),  # it never grew
        ([1e-9, 0.1, 0.2, 0.1], [3.0, 2.0, 1.0, 2.0], False),  # a loss that starts at 0
        ([-1e-9, 0.1, 0.2, 0.1], [1e-9, 2.0, 1.0, 2.0], False),  # as a policy's does
        ([2.0, 1.0, 1.5, 0.9], [1.0, 5e3, 1e4, 1e4], False),  # norms alone
        ([1.0, 5e4, 2.0, 1.0], [1.0, 5e4, 1.0, 1.0], False),  # a spike that is over
        ([NAN, NAN], [NAN, NAN], False),
        ([0.0, 5e4], [0.0, 5e4], False),
    ],
)
def test_a_training_that_diverges(losses: list[float], norms: list[float], diverged: bool) -> None:
    found = growth_findings(course(losses, norms), None)
    assert [finding.what for finding in found] == ["diverged"] * diverged


def test_the_ends_of_a_divergence() -> None:
    (found,) = growth_findings(course([2.0, 1.0, 9e3, 5e4, NAN], [3.0, 1.0, 90.0, 4e3, NAN]), None)
    assert found.sentence.startswith(
        "The training exploded: from step 1 to step 3 the loss grew from 1 to 5e+04, and the norm "
        "of the gradients from 1 to 4000."
    )


def sizes(
    backward: list[float], *, direction: str = "backward", step: int = 0, op: str = "fc1"
) -> pd.DataFrame:
    """Largest magnitudes of a stack's gradients as they go back, or of its outputs."""
    layers = range(len(backward))
    order = list(reversed(layers) if direction == "backward" else layers)
    return pd.DataFrame(
        {
            "step": step,
            "site": [f"layers.{layer}.{op}" for layer in order],
            "layer": pd.array(order, dtype="Int64"),
            "op": op,
            "direction": direction,
            "max_abs": [1.0 if math.isinf(size) else size for size in backward],
            "headroom_bits": [-INF if math.isinf(size) else 1.0 for size in backward],
            "nonfinite": [int(math.isinf(size)) for size in backward],
        }
    )


FINE = course([1.0], [1.0])


@pytest.mark.parametrize("direction", ["backward", "forward"])
def test_sizes_that_grow_layer_by_layer_until_they_are_infinite(direction: str) -> None:
    table = sizes([1e2, 1e3, 1e4, 1e5, INF, INF], direction=direction)
    before = sizes([1.0] * 6, direction=direction)
    (found,) = growth_findings(FINE, pd.concat([before, table.assign(step=1)]))
    first, last = ("5", "2") if direction == "backward" else ("0", "3")
    assert found.sentence.startswith(
        f"At step 1 the {'gradients' if direction == 'backward' else 'outputs'} exploded layer by "
        f"layer: largest 100 at layers.{first}.fc1 and 100000 at layers.{last}.fc1, 10 times as "
        "large with each of 4 layers."
    )


@pytest.mark.parametrize(
    "grown",
    [
        [1e2, 1e3, 1e4, 1e5, 1e6],  # all finite
        [1e2, 1e3, 1e5, INF],  # three layers
        [1e2, 1e5, 1e4, 1e6, INF],  # not from each to the next
        [1.0, 2.0, 4.0, 8.0, INF],  # no explosion
        [0.0, 0.0, 0.0, 0.0, INF],
    ],
)
def test_what_is_no_explosion(grown: list[float]) -> None:
    assert growth_findings(FINE, sizes(grown)) == []


@pytest.mark.parametrize(
    ("ratio", "word"), [(1e-4, "vanish"), (1e-2, None), (1.0, None), (1e2, None), (1e4, "explode")]
)
def test_a_mismatch_that_is_extreme_has_its_word(ratio: float, word: str | None) -> None:
    rows = [(step, layer, ratio ** (1 - layer)) for step in range(4) for layer in range(2)]
    table = pd.DataFrame(rows, columns=["step", "layer", "grad_l1"]).astype({"layer": "Int64"})
    table = table.assign(op="fc1", numel=4, nonfinite=0)
    table["param"] = table["layer"].map("layers.{}.fc1.weight".format)
    (found,) = mismatch_findings(table, top=5)
    for each in ("vanish", "explode"):
        assert (f"gradients {each} towards the first layers" in found.sentence) == (each == word)


FALLING = [2.0 * 0.9**step for step in range(30)]


@pytest.mark.parametrize(
    ("losses", "jumped"),
    [
        ([*FALLING, 50.0, 2.0, 1.0], True),
        ([*FALLING, NAN, 50.0], True),
        ([*FALLING, 1.5, 0.1], False),  # no larger than the first
        ([1e-3, 1e-3, 5.0], False),  # too early to say what is usual
        ([1.0 + step for step in range(40)], False),  # it rises, and does not jump
        ([0.0] * 10 + [1.0], False),
        ([-1.0] * 10 + [5.0], False),
        ([NAN] * 10, False),
    ],
)
def test_a_loss_that_jumps(losses: list[float], jumped: bool) -> None:
    found = growth_findings(course(losses, [1.0] * len(losses)), None)
    assert [finding.what for finding in found] == ["loss jumped"] * jumped


def test_the_rate_that_made_it_jump_is_told() -> None:
    rates = [0.05] * 29 + [100.0, 0.05]
    (found,) = growth_findings(course([*FALLING, 50.0], [1.0] * 31, rates), None)
    assert "At step 30 the loss was" in found.sentence
    assert "the learning rate was 100 at step 29, 0.05 at most others" in found.sentence
    (found,) = growth_findings(course([*FALLING, 50.0], [1.0] * 31), None)
    assert "learning rate" not in found.sentence


def test_a_rate_that_slipped_is_told_of_a_divergence_too() -> None:
    losses, norms = [*FALLING, 1e6, 1e7, 1e7], [*[1.0] * 30, 1e6, 1e7, 1e7]
    rates = [0.01] * 29 + [1000.0, 1000.0, 0.01, 0.01]
    diverged, jumped = growth_findings(course(losses, norms, rates), None)
    assert diverged.what == "diverged"
    assert "the learning rate was 1000 at step 29, 0.01 at most others" in jumped.sentence
