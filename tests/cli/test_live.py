import math
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from gradlab.cli.terminal.live import Watch, duration, plain_lines, run_seconds_left, watching
from gradlab.settings import OneRun
from gradlab.studies.news import Named, Planned, RunUpdate
from gradlab.training.progress import Progress


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def news(step: int, **fields: Any) -> Progress:
    values = {
        "step": step,
        "steps": 100,
        "lr": step * 2e-4,
        "loss": 2.5,
        "loss_scale": 128.0,
        "least_headroom": 4.25,
        "tightest_site": "blocks.0.attention.scores",
        "seconds": float(step + 1),
    }
    return Progress(**{**values, **fields})


def console(*, terminal: bool, width: int = 130) -> tuple[Console, StringIO]:
    text = StringIO()
    return Console(file=text, force_terminal=terminal, width=width, height=20), text


def test_plain_lines_of_a_run_come_seldom_but_its_end_always() -> None:
    clock, (screen, text) = Clock(), console(terminal=False)
    report = plain_lines(Watch({"a": 1.0, "b": 1.0}, clock), screen)
    for second in range(31):
        clock.now = float(second)
        report(RunUpdate("a", "running", news(second)))
    report(RunUpdate("b", "running", news(7)))
    report(RunUpdate("b", "failed", None, "the disk is full"))
    lines = text.getvalue().splitlines()
    assert [line.split("  ")[1] for line in lines if line.startswith("a")] == [
        "step 1/100",
        "step 11/100",
        "step 21/100",
        "step 31/100",
    ]
    assert lines[0] == (
        "a  step 1/100  lr 0  loss 2.500  4.2 bits at blocks.0.attention.scores  at most 2 min left"
    )
    assert lines[-2].startswith("b  step 8/100")
    assert lines[-1].startswith("b  failed (1 of 2)  step 8/100")
    assert lines[-1].endswith("the disk is full")


def test_plain_lines_without_headroom_and_with_overflow() -> None:
    screen, text = console(terminal=False)
    report = plain_lines(Watch({"a": 1.0, "b": 1.0}), screen)
    report(RunUpdate("a", "running", news(1, least_headroom=None, tightest_site=None)))
    report(RunUpdate("b", "running", news(1, least_headroom=-math.inf, loss=math.nan)))
    first, second = text.getvalue().splitlines()
    assert "bits" not in first
    assert "loss nan  overflow at blocks.0.attention.scores" in second


def test_an_overflow_that_is_foreseen_is_told_in_steps() -> None:
    coming = news(9, overflow_site="blocks.3.attention.scores", overflow_step=49)
    screen, text = console(terminal=False)
    plain_lines(Watch({"one": 1.0}), screen)(RunUpdate("one", "running", coming))
    assert "overflow in about 40 steps at blocks.3.attention.scores  at most" in text.getvalue()
    screen, text = console(terminal=True, width=80)
    with watching(screen) as report:
        report(Named(["one", "two"]))
        report(RunUpdate("one", "running", coming))
        report(RunUpdate("two", "running", news(9)))
    assert "one: overflow in about 40 steps at blocks.3.attention.scores" in text.getvalue()
    assert "two: overflow" not in text.getvalue()


def test_a_terminal_shows_a_line_a_run_and_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    screen, text = console(terminal=True)
    with watching(screen) as report:
        report(Named(["one", "two", "three"]))
        report(RunUpdate("one", "running", news(9)))
        report(RunUpdate("two", "running", news(3)))
        report(RunUpdate("two", "failed", None, "no room"))
    shown = text.getvalue()
    for expected in ("one", "10/100", "0.0018", "2.500", "4.2 bits", "no room", "1 of 3 runs done"):
        assert expected in shown
    assert "1 waiting" in shown


def test_eighty_columns_tell_the_runs_apart() -> None:
    names = [f"nano_{arch}_ramp0.0002_seed0" for arch in ("pre-ln", "normformer-resscale")]
    screen, text = console(terminal=True, width=80)
    with watching(screen) as report:
        report(Named(names))
        report(RunUpdate(names[0], "failed", news(3), "a long reason, which is printed at the end"))
        report(RunUpdate(names[1], "running", news(2345, steps=4000, least_headroom=-math.inf)))
    last = text.getvalue().split("run  ")[-1]
    assert "…" not in last
    assert "pre-ln_ramp0.0002_seed0 " in last
    assert "failed" in last
    for expected in ("normformer-resscale_ramp0.0002_seed0", "2346/4000", "0.469", "−inf"):
        assert expected in last
    assert "bits" in last
    assert "ends in" in last


def test_the_bar_of_a_run_shows_how_its_headroom_went() -> None:
    watch = Watch({"a": 1.0, "b": 3.0})
    for step, bits in ((0, 15.9), (9, 13.0), (10, 12.0), (17, -3.0), (25, -math.inf), (26, 9.0)):
        watch.take(RunUpdate("a", "running", news(step, least_headroom=bits)))
    # Of twelve parts of 100 steps each: 0–8, 9–16, 17–24, 25–33; the least of each counts.
    assert watch.trend("a") == "█▇▁×········"
    watch.take(RunUpdate("b", "running", news(99, least_headroom=None)))
    assert watch.trend("b") == "━" * 12
    assert watch.trend("c") == ""
    watch.begin({"a": 1.0})
    assert watch.trend("a") == ""


def test_what_is_done_counts_by_its_work() -> None:
    watch = Watch({"a": 1.0, "b": 3.0})
    assert watch.share_done == 0.0
    watch.take(RunUpdate("b", "running", news(49)))
    assert watch.share_done == pytest.approx(1.5 / 4)
    watch.take(RunUpdate("b", "finished"))  # broken early: nothing of it is to come
    assert watch.share_done == pytest.approx(3 / 4)


def test_many_runs_fit_on_the_terminal() -> None:
    names = [f"run{number}" for number in range(60)]
    screen, text = console(terminal=True)
    with watching(screen) as report:
        report(Named(names))
        for name in names[:-1]:
            report(RunUpdate(name, "finished"))
        report(RunUpdate(names[-1], "running", news(5)))
    last = text.getvalue().split("run  ")[-1]
    assert "run59" in last
    assert "59 of 60 runs done" in last
    assert "run10" not in last


def test_the_time_left_assumes_that_other_runs_end_as_the_ended_ones_did() -> None:
    clock = Clock()
    watch = Watch({"a": 1000.0, "b": 1000.0, "c": 3000.0}, clock)
    assert watch.seconds_left() is None
    clock.now = 10.0
    watch.take(RunUpdate("a", "running", news(19, seconds=10.0)))
    # 200 of 5000 done in 10 seconds, and nothing says that runs end early
    assert watch.seconds_left() == pytest.approx(10 * 4800 / 200)
    clock.now = 20.0
    watch.take(RunUpdate("a", "running", news(39, seconds=20.0)))
    watch.take(RunUpdate("a", "finished"))
    # a took 40 % of its steps: 400 done in 20 seconds, 0.4 · 4000 to come
    assert watch.seconds_left() == pytest.approx(20 * 1600 / 400)
    watch.take(RunUpdate("b", "running", news(49, seconds=0.0)))
    # b is past what was usual: it adds nothing
    assert watch.seconds_left() == pytest.approx(20 * 1200 / 900)


def test_runs_that_were_done_before_take_no_time() -> None:
    clock = Clock()
    watch = Watch({"a": 1.0, "b": 1.0}, clock)
    watch.take(RunUpdate("a", "finished"))
    clock.now = 5.0
    watch.take(RunUpdate("b", "running", news(49, seconds=5.0)))
    assert watch.seconds_left() == pytest.approx(5.0)


def test_a_run_is_over_at_its_last_step() -> None:
    assert run_seconds_left(news(24)) == pytest.approx(75.0)
    assert run_seconds_left(news(99)) == 0.0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 s"), (59, "59 s"), (61, "2 min"), (3599, "1 h 0 min"), (4801, "1 h 21 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize("compiles", [False, True])
@pytest.mark.parametrize("terminal", [False, True])
def test_a_run_that_compiles_says_so_first(compiles: bool, terminal: bool) -> None:
    screen, text = console(terminal=terminal)
    with watching(screen) as tell:
        tell(Planned([OneRun(compile=compiles).config()]))
        assert ("Compiling" in text.getvalue()) == compiles


def test_what_an_earlier_session_did_takes_no_time_now() -> None:
    """One run is resumed near its end, nine are to come: a second a step."""
    clock = Clock()
    watch = Watch({f"r{place}": 1000.0 for place in range(10)}, clock)
    for second in (1, 4):
        clock.now = float(second)
        watch.take(RunUpdate("r0", "running", news(899 + second, steps=1000)))
        assert watch.seconds_left() == pytest.approx(100 - second + 9 * 1000)
    clock.now = 100.0
    watch.take(RunUpdate("r0", "finished", news(999, steps=1000)))
    clock.now = 110.0  # and another, as long after its own start
    watch.take(RunUpdate("r1", "running", news(509, steps=1000)))
    assert watch.seconds_left() == pytest.approx(490 + 8 * 1000)
