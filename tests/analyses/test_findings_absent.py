"""Sentences about parameters without a gradient, on tables made by hand."""

from collections.abc import Iterable

import pandas as pd
import pytest

from gradlab.analyses.finding import Finding
from gradlab.analyses.findings_absent import absent_findings

N = 12
ALL = range(N)


def faults(*names: str, late: str | None = None) -> pd.DataFrame:
    rows = [(0, name, "absent", 4) for name in (*names, *([late] if late else []))]
    rows += [(7, late, "absent", 0)] if late else []
    return pd.DataFrame(rows, columns=["step", "name", "kind", "count"])


def norms(every: int = 1, **given: Iterable[int]) -> pd.DataFrame:
    rows = [(every * step, f"{name}.weight") for name, steps in given.items() for step in steps]
    return pd.DataFrame(rows, columns=["step", "param"])


def headroom(every: int = 1, **called: Iterable[int]) -> pd.DataFrame:
    rows = [(every * step, name, "forward") for name, steps in called.items() for step in steps]
    return pd.DataFrame(rows, columns=["step", "site", "direction"])


def found(*tables: pd.DataFrame | None) -> dict[str, Finding]:
    first, *rest = tables
    assert first is not None
    return {finding.what: finding for finding in absent_findings(first, rest[0], rest[1])}


def test_never_a_gradient_is_told_from_late() -> None:
    table = faults("a", "b", "c", late="late")
    never = found(table, norms(d=ALL, late=ALL).replace(".weight", "", regex=True), None)
    assert never["no gradient"].sentence == (
        "3 of 5 trained parameters never got a gradient: a, b, c."
    )
    assert not found(table[table["name"] == "late"], None, None)
    assert not found(faults(), None, None)


def test_a_module_that_was_not_called_is_told_from_one_whose_output_went_nowhere() -> None:
    table = faults("idle.weight", "cut.weight", "cut.bias")
    sites = headroom(a=ALL, b=ALL, cut=ALL)
    sentence = found(table, norms(a=ALL, b=ALL), sites)["no gradient"].sentence
    idle, cut = sentence.split("; ")[1:]
    assert idle.startswith("idle was not called")
    assert cut.startswith("cut was called, but no path with gradients led from it to the loss")


@pytest.mark.parametrize("sites", [None, headroom(head=ALL)])
def test_nothing_is_said_of_calls_that_nobody_looked_at(sites: pd.DataFrame | None) -> None:
    never = found(faults("idle.weight"), norms(a=ALL, b=ALL, head=ALL), sites)["no gradient"]
    assert "called" not in never.sentence


@pytest.mark.parametrize("every", [1, 10])
@pytest.mark.parametrize(
    ("steps", "what"),
    [
        (range(6), "no gradient any more"),  # half of the looks
        (range(7), "gradient at times"),
        ([0, 4, 11], "gradient at times"),
        (ALL, None),
    ],
)
def test_one_that_gets_none_any_more_is_told_from_one_that_waits(
    steps: Iterable[int], what: str | None, every: int
) -> None:
    # The looks count, not the steps between them.
    rows = found(faults(), norms(every, a=ALL, b=steps), None)
    rows_of = {key: row.is_fact for key, row in rows.items()}
    assert rows_of == ({what: what == "gradient at times"} if what else {})


@pytest.mark.parametrize(
    ("called", "said"), [(range(6), "b was not called again"), (ALL, "b was called all the same")]
)
def test_whether_it_was_still_called(called: Iterable[int], said: str) -> None:
    rows = found(faults(), norms(a=ALL, b=range(6)), headroom(a=ALL, b=called))
    assert said in rows["no gradient any more"].sentence
