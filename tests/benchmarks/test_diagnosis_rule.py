"""When a tool has named a cause."""

import math

import pytest
from torch import nn

from benchmarks.diagnosis.case import Case, named
from benchmarks.diagnosis.rule import holds_line, holds_name, outcome, says_wrong
from benchmarks.diagnosis.tool import Tool, chart_claims

PARAMETERS = ("norm.weight", "norm.bias", "fc.weight", "fc.bias")


def broken(tool: Tool, healthy: bool) -> nn.Module:
    return named()  # culprit


CASE = Case("", "", ("norm", "layers.1"), (r"from the loss",), broken, 1)


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        (["the output of norm is NaN"], "named"),
        (["norm.weight was not finite"], "named"),
        (["the NaN came from the loss"], "named"),
        (["the output of layers.1.fc is NaN"], "noticed"),
        (["the output of layers.10 is NaN", "norm is small"], "noticed"),
        (["not finite: norm.weight, norm.bias, fc.weight, fc.bias"], "noticed"),
        (["not finite: norm.weight, norm.bias"], "named"),
        (["None: no overflow at norm"], "silent"),
        (["the output of norm is small"], "silent"),
        ([], "silent"),
    ],
)
def test_outcome(claims: list[str], expected: str) -> None:
    assert outcome(CASE, claims, [], PARAMETERS) == expected


def test_what_is_said_of_the_twin_as_well_does_not_count() -> None:
    claims = ["norm is NaN", "fc is NaN"]
    assert outcome(CASE, claims, ["norm is NaN"], PARAMETERS) == "noticed"
    assert outcome(CASE, claims, claims, PARAMETERS) == "silent"


def test_file_and_line_name_it() -> None:
    ((file, line),) = CASE.culprit_lines()
    assert file == "test_diagnosis_rule.py"
    for claim in (f"NaN at /home/me/{file}:{line}", f'NaN: File "{file}", line {line}, in broken'):
        assert holds_line(claim, file, line)
        assert outcome(CASE, [claim], [], PARAMETERS) == "named"
        assert not holds_line(claim, file, line + 1)
        assert not holds_line(claim.replace(str(line), f"{line}0"), file, line)


def test_a_name_is_not_part_of_another() -> None:
    assert holds_name("at a.norm", "a.norm")
    assert holds_name("at a.norm.", "a.norm")
    assert holds_name("at a.norm.bias", "a.norm")
    for claim in ("at a.norm2", "at b.a.norm", "at a.norm.fc", "at a.normal"):
        assert not holds_name(claim, "a.norm")


def test_the_words_that_say_that_something_is_wrong() -> None:
    for claim in ("3 infs", "first overflow: fc", "never got a gradient", "ValueError: fc", "NaN"):
        assert says_wrong(claim)
    for claim in ("information", "nanometre", "first overflow: None: all stayed finite", "fc: 3"):
        assert not says_wrong(claim)


def test_charts_show_what_is_not_finite_zero_or_exploding() -> None:
    series = {
        "a": [1.0, math.nan, 1.0],
        "b": [0.0, 0.0],
        "c": [0.1, 1.0, 100.0],
        "d": [1.0, 0.0, 3.0],
        "e": [1.0, math.inf],
        "f": [],
    }
    assert chart_claims(series) == ["not finite: a, e", "zero at every step: b", "exploded: c"]
