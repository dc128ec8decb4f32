import math

import pandas as pd

from gradlab.analyses.finding import Finding
from gradlab.analyses.findings_optimizer import optimizer_findings, update_ratios


def moves(*rows: tuple[int, str, float, float], eps_frac: float | None = None) -> pd.DataFrame:
    columns = ["step", "param", "param_rms", "update_rms"]
    return pd.DataFrame(rows, columns=columns).assign(
        eps_frac=math.nan if eps_frac is None else eps_frac
    )


def told(table: pd.DataFrame, top: int = 5) -> dict[str, Finding]:
    return {found.what: found for found in optimizer_findings(table, top=top)}


def test_updates_against_the_size_of_the_weight() -> None:
    table = moves(
        *((0, "a", 2.0, 0.2), (1, "a", 2.0, 0.8), (2, "a", 2.0, 0.4)),
        *((0, "b", 0.0, 0.1), (1, "b", 0.1, 0.01), (2, "b", 0.1, 0.0)),  # at 0; skipped
        (1, "a.bias", 0.1, 0.1),
    )
    found = update_ratios(table)
    assert found["param"].tolist() == ["a", "b"]
    assert found["ratio"].tolist() == [0.4, 0.01 / 0.1]
    assert found["step"].tolist() == [1, 1]
    assert found["median_ratio"].tolist() == [0.2, 0.01 / 0.1]
    updates = told(table, top=1)["updates"]
    assert updates.sentence == (
        "Largest at a, 0.4 of its size at step 1; the median update is 0.1 to 0.2 of a weight's "
        "size, weight by weight."
    )
    assert updates.table is not None
    assert len(updates.table) == 1


def test_parameters_that_never_moved() -> None:
    still = [(0, "x", 1.0, 0.0), (1, "x", 1.0, 0.0), (1, "y.bias", 0.0, 0.0)]
    found = told(moves(*still, (0, "a", 1.0, 0.0), (1, "a", 1.0, 0.1)))
    assert found["never moved"].sentence == "x and 1 more did not move at any recorded step."
    assert told(moves(*still))["never moved"].sentence == "No parameter moved at a recorded step."
    assert "never moved" not in told(moves((0, "a", 1.0, 0.1)))


def test_parameters_that_are_not_finite() -> None:
    found = told(moves((0, "a", 1.0, 0.1), (3, "b", math.inf, 0.1), (4, "a", math.nan, math.nan)))
    assert found["parameters not finite"].sentence == "First b after step 3, 2 parameters in all."
    assert found["updates"].table is not None
    assert found["updates"].table["param"].tolist() == ["a"]


def test_shares_below_epsilon() -> None:
    table = moves(*((step, name, 1.0, 0.1) for step in (0, 1) for name in ("a", "b", "b.bias")))
    table["eps_frac"] = [0.5, 0.1, 1.0, 0.2, 0.3, 1.0]
    found = told(table)["below ε"]
    assert found.sentence == (
        "√v̂ was under Adam's ε in 50 % of the entries of a at step 0: those move as in plain "
        "gradient descent."
    )
    assert found.table is not None
    assert found.table.to_numpy().tolist() == [["a", 0.5, 0, 0.2], ["b", 0.3, 1, 0.3]]
    few = told(table.assign(eps_frac=0.002))["below ε"]
    assert few.sentence == (
        "At most 0.2 % of a weight's entries had √v̂ under Adam's ε (a, step 0)."
    )
    none = told(table.assign(eps_frac=0.0))["below ε"]
    assert none.sentence == "No entry had √v̂ under Adam's ε at a recorded step."


def test_another_optimizer_has_no_epsilon() -> None:
    assert set(told(moves((0, "a", 1.0, 0.1)))) == {"updates"}


def test_no_rows() -> None:
    assert told(moves()) == {}
