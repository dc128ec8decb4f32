"""The highest constant rate against the ramp's answer, as it is drawn."""

import math
from typing import Any

import pandas as pd
import pytest
from matplotlib.axes import Axes

from gradlab.analyses.limits import COLUMNS
from gradlab.figures.limits import limit_against_ramp
from gradlab.figures.style import LOOKS


def row(arch: str, **of: Any) -> dict[str, Any]:
    whole = {"seed": 0, "low": 0.1, "high": 0.2, "tried": 3, "done": True, "ramp": 0.3}
    return {"arch": arch, **whole, "ramp_bound": False, **of}


def drawn(*rows: dict[str, Any]) -> Axes:
    return limit_against_ramp(pd.DataFrame(list(rows))[COLUMNS])


def points(ax: Axes) -> dict[Any, tuple[list[float], list[float]]]:
    """Marker → where it stands."""
    return {
        line.get_marker(): (list(line.get_xdata()), list(line.get_ydata()))
        for line in ax.lines
        if line.get_linestyle() == "None"
    }


@pytest.mark.parametrize("arch", ["pre-ln", "rezero", "reordered-norm"])
def test_every_architecture_has_its_marker_and_no_line(arch: str) -> None:
    ax = drawn(row(arch))
    assert points(ax) == {LOOKS[arch].marker: ([0.3], [0.1])}
    assert ax.get_xlim()[1] < 0.5
    assert len(ax.lines) == 2  # the point, and where both are alike


@pytest.mark.parametrize(
    ("bounds", "marker"),
    [
        ({"high": math.nan}, "^"),
        ({"ramp_bound": True}, ">"),
        ({"high": math.nan, "ramp_bound": True}, (3, 0, -45)),
    ],
)
def test_a_lower_bound_is_a_triangle_to_where_the_answer_is(
    bounds: dict[str, Any], marker: Any
) -> None:
    ax = drawn(row("pre-ln", ramp=0.25), row("pre-ln", seed=1, **bounds))
    assert points(ax) == {"o": ([0.25], [0.1]), marker: ([0.3], [0.1])}
    legend = ax.get_legend()
    assert legend is not None
    assert "lower bound" in [text.get_text() for text in legend.get_texts()]


def test_each_kind_of_bound_stands_in_the_legend() -> None:
    both = drawn(row("pre-ln", high=math.nan), row("pre-ln", seed=1, ramp_bound=True))
    legend = both.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()].count("lower bound") == 2
