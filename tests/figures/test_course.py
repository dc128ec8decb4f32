import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from gradlab.errors import GradlabError
from gradlab.figures.course import Break, course_panels
from gradlab.figures.steps_axis import LOST
from gradlab.figures.style import LOOKS, looks

NO_EVENTS = pd.DataFrame(columns=["arch", "seed", "event", "step"])


def course(
    arch: str = "pre-ln", seed: int | None = 0, steps: int = 50, **columns: Any
) -> pd.DataFrame:
    at = np.arange(steps)
    table = {"arch": arch, "step": at, "lr": 1e-3 * at, "loss": 5 - np.sin(at), "val_loss": np.nan}
    found = pd.DataFrame({**table, "loss_scale": np.nan, **columns})
    return found.assign(seed=pd.array([seed] * steps, "Int64"))


def events(event: str, steps: list[int], arch: str = "pre-ln", seed: int = 0) -> pd.DataFrame:
    return pd.DataFrame({"arch": arch, "seed": seed, "event": event, "step": steps})


def curve(ax: Axes, color: str) -> Any:
    """The line of a colour that joins points."""
    (found,) = [
        line
        for line in ax.lines
        if to_hex(line.get_color()).upper() == color.upper()
        and len(line.get_xdata()) > 2
        and line.get_linestyle() == "-"
    ]
    return found


def rows(figure: Figure) -> list[str]:
    return [label.get_text() for label in figure.axes[-1].get_yticklabels()]


def marks(figure: Figure) -> dict[str, list[float]]:
    """The steps marked below the curves, by colour."""
    return {
        to_hex(line.get_color()): line.get_xdata().tolist()
        for line in figure.axes[-1].lines
        if line.get_marker() == "|"
    }


def test_each_curve_is_the_column_of_its_name() -> None:
    table = course(loss_scale=[2.0 ** (16 - step // 10) for step in range(50)])
    figure = course_panels(table, NO_EVENTS)
    for ax, name in zip(figure.axes, ("loss", "lr", "loss_scale"), strict=True):
        steps, values = curve(ax, LOOKS["pre-ln"].color).get_data()
        np.testing.assert_array_equal(steps, table["step"])
        np.testing.assert_array_equal(values, table[name])
    assert figure.axes[2].get_yscale() == "log"
    assert figure.axes[0].get_title(loc="left") == "Pre-LN, seed 0"


def test_what_was_not_recorded_has_no_panel() -> None:
    figure = course_panels(course(lr=np.nan), NO_EVENTS)
    assert len(figure.axes) == 1
    only = course_panels(course(lr=np.nan, loss=np.nan), events("skipped", [3]))
    assert rows(only) == ["skipped (1)"]


def test_events_have_a_row_each_with_their_number() -> None:
    table = pd.concat([events("overflow", [7, 8]), events("skipped", [7, 8, 30])])
    figure = course_panels(course(), table)
    assert rows(figure) == ["skipped (3)", "overflow (2)"]
    assert marks(figure)[to_hex(LOST)] == [7, 8]
    assert sorted(map(len, marks(figure).values())) == [2, 3]


def test_of_several_runs_each_that_had_events_has_a_row() -> None:
    table = pd.concat([course(), course("normformer"), course("post-ln")])
    happened = pd.concat([events("skipped", [3]), events("overflow", [9, 11], "normformer")])
    figure = course_panels(table, happened, [Break("normformer", 40)])
    assert rows(figure) == ["Pre-LN", "NormFormer"]
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["Pre-LN", "NormFormer", "Post-LN", "skipped", "overflow", "break"]
    ends = [line.get_xdata()[0] for line in figure.axes[0].lines if len(line.get_xdata()) == 2]
    assert ends == [40]


def test_of_several_runs_a_break_stands_in_the_row_of_its_own() -> None:
    table = pd.concat([course(), course("normformer"), course("post-ln")])
    breaks = [Break("normformer", 40, 0), Break("post-ln", 30, 0)]
    figure = course_panels(table, events("skipped", [3]), breaks)
    assert rows(figure) == ["Pre-LN", "NormFormer", "Post-LN"]
    last = figure.axes[-1]
    assert not [line for line in last.lines if line.get_marker() != "|"]
    places = {row: place for place, row in enumerate(rows(figure))}
    drawn = [path for of in last.collections for path in of.get_paths() if len(path.vertices)]
    middles = {
        (float(at[:, 0].mean()), float(at[:, 1].mean())) for at in (p.vertices for p in drawn)
    }
    assert middles == {(40.0, places["NormFormer"]), (30.0, places["Post-LN"])}


def test_a_loss_that_is_not_finite_is_a_gap() -> None:
    table = course()
    table.loc[10:19, "loss"] = [math.nan, math.inf] * 5
    _, values = curve(course_panels(table, NO_EVENTS).axes[0], LOOKS["pre-ln"].color).get_data()
    assert np.flatnonzero(np.isnan(values)).tolist() == list(range(10, 20))


def test_validations_are_dots() -> None:
    table = course(val_loss=[4.0 if step % 10 == 9 else math.nan for step in range(50)])
    lines = course_panels(table, NO_EVENTS).axes[0].lines
    dots = [line for line in lines if line.get_marker() == "o"]
    assert dots[0].get_xdata().tolist() == [9, 19, 29, 39, 49]


def test_a_long_run_is_thinned_and_keeps_its_extremes_and_events() -> None:
    steps = 100_000
    table = course(steps=steps)
    table.loc[54_321, "loss"] = 1e6
    table.loc[12_345, "loss"] = 1e-3
    figure = course_panels(table, events("skipped", [5, 77_777, *range(90_000, 99_000)]))
    x, y = curve(figure.axes[0], LOOKS["pre-ln"].color).get_data()
    assert len(x) < 4100
    assert (y.max(), x[y.argmax()]) == (1e6, 54_321)
    assert (y.min(), x[y.argmin()]) == (1e-3, 12_345)
    assert figure.axes[0].get_yscale() == "log"
    (shown,) = marks(figure).values()
    assert {5, 77_777} <= set(shown)
    assert len(shown) < 1000
    assert rows(figure) == ["skipped (9002)"]


@pytest.mark.parametrize("steps", [1, 2, 1000])
@pytest.mark.parametrize("name", ["$x^{_ <b>", "pre-ln"])
def test_any_length_and_any_name_can_be_drawn(steps: int, name: str) -> None:
    figure = course_panels(course(name, None, steps=steps), NO_EVENTS)
    figure.draw_without_rendering()
    assert figure.axes[0].get_title(loc="left") == looks([name])[name].label
    ticks = figure.axes[-1].get_xticks()
    assert all(tick == round(tick) for tick in ticks)


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(GradlabError, match="nothing to draw"):
        course_panels(course(steps=0), NO_EVENTS)


def test_a_loss_scale_of_one_throughout_is_none() -> None:
    unscaled = course("normformer", loss_scale=1.0)
    assert len(course_panels(unscaled, NO_EVENTS).axes) == 2
    constant = pd.concat([course(loss_scale=8.0), unscaled], ignore_index=True)
    assert len(course_panels(constant, NO_EVENTS).axes) == 2, "it never moved"
    moving = course(loss_scale=[8.0] * 25 + [4.0] * 25)
    both = pd.concat([moving, unscaled], ignore_index=True)
    *_, scales = course_panels(both, NO_EVENTS).axes
    drawn = [line for line in scales.lines if np.isfinite(line.get_ydata().astype(float)).any()]
    assert [set(line.get_ydata()) for line in drawn] == [{8.0, 4.0}]
