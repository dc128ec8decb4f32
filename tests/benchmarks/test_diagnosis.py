"""The cases of broken trainings, under gradlab alone."""

import sys
from collections.abc import Sequence
from contextlib import closing
from functools import cache

import pytest

from benchmarks.diagnosis.__main__ import main
from benchmarks.diagnosis.case import Case
from benchmarks.diagnosis.cases import CASES, KINDS
from benchmarks.diagnosis.rule import says_wrong
from benchmarks.diagnosis.runner import Run, Workers, installed, judge, run_here, together
from benchmarks.diagnosis.tool import Tool
from benchmarks.diagnosis.tools import TOOLS, Gradlab, LoggedNorm

MISSED = {
    "gradient_penalty": "that it arose outside the model is not said",
    "clipped_scaled": "dividing scaled gradients is sound, and looks the same",
    "not_averaged": "nothing in the gradients says which was meant",
}
"""What gradlab does not name yet, and why."""


def one_process_each() -> list[object]:
    """The cases that need no others, as parameters."""
    return [pytest.param(case, id=key) for key, case in CASES.items() if case.ranks == 1]


@cache
def bare(case: Case, healthy: bool) -> Run:
    return run_here(case, Tool(), healthy)


@pytest.mark.parametrize("case", one_process_each())
def test_a_case_differs_from_its_healthy_twin(case: Case) -> None:
    broken, twin = bare(case, False), bare(case, True)
    assert not broken.error
    assert not twin.error
    assert broken.weights != twin.weights


@pytest.mark.parametrize("case", one_process_each())
def test_names_the_cause_alone_and_changes_nothing(
    case: Case, request: pytest.FixtureRequest
) -> None:
    run, twin = (run_here(case, Gradlab(), healthy) for healthy in (False, True))
    found = judge(case, bare(case, False), bare(case, True), run, twin)
    assert not found.error
    assert not found.is_disturbed
    assert not [claim for claim in twin.claims if says_wrong(claim)]
    if case.key in MISSED:
        request.applymarker(pytest.mark.xfail(reason=MISSED[case.key], strict=True))
    assert found.outcome == "named"


@pytest.mark.slow
@pytest.mark.parametrize("key", [key for key, case in CASES.items() if case.ranks > 1])
@pytest.mark.long
def test_names_the_cause_in_several_processes(key: str, request: pytest.FixtureRequest) -> None:
    case = CASES[key]
    with closing(Workers(case.ranks)) as workers:  # to start them takes nearly all of the time
        (bare_twin, own), (twin, run) = (
            map(together, zip(*workers.run(tool, case, limit=100), strict=True))
            for tool in (Tool.title, Gradlab.title)
        )
    found = judge(case, own, bare_twin, run, twin)
    assert not found.error
    assert not found.is_disturbed
    assert not found.is_false_alarm
    if key in MISSED:
        request.applymarker(pytest.mark.xfail(reason=MISSED[key], strict=True))
    assert found.outcome == "named"


def test_every_case_has_its_kind_and_its_source() -> None:
    assert len(CASES) >= 40
    assert {case.train.__module__ for case in CASES.values()} == {
        m.__name__ for m in KINDS.values()
    }
    assert all(case.source.startswith("https://") for case in CASES.values())
    assert all(case.names or case.phrases for case in CASES.values())
    assert set(MISSED) <= set(CASES)


@pytest.mark.slow
@pytest.mark.parametrize(
    "tools",
    [(Gradlab.title, LoggedNorm.title), pytest.param(tuple(TOOLS), marks=pytest.mark.long)],
    ids=["two", "all"],
)
@pytest.mark.long
def test_the_command_prints_a_column_a_tool(
    tools: Sequence[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = list(filter(installed, tools))
    monkeypatch.setattr(sys, "argv", ["diagnosis", "--case", "nan_row", "--tool", *here])
    main()
    out = capsys.readouterr().out
    assert f"| case | met in | {' | '.join(here)} |" in out
    assert "| gradlab | 1 (100 %) | 0 | 0 | 0 | 0 |" in out
