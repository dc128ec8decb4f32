"""What a page holds of its runs' curves."""

import json
import math
from collections.abc import Collection
from typing import Any

import numpy as np
import pytest
from made_up_runs import write_rows

from gradlab.pages import curves as curves_module
from gradlab.pages.curves import page_curves
from gradlab.runs.memory import MemoryWriter
from gradlab.runs.reader import Run


def run_of(loss: list[float], skipped: Collection[int] = ()) -> Run:
    writer = MemoryWriter(None, {"tables": ["steps"]})
    steps = range(len(loss))
    is_skipped = [step in skipped for step in steps]
    write_rows(writer, "steps", step=steps, loss=loss, lr=1e-3, seconds=steps, skipped=is_skipped)
    return writer.run()


def line(drawn: Any, title: str) -> tuple[list[int], list[float | None]]:
    (panel,) = [panel for panel in drawn["panels"] if panel["title"] == title]
    return np.cumsum(panel["lines"][0]["steps"]).tolist(), panel["lines"][0]["values"]


def test_a_short_run_is_all_there() -> None:
    drawn = page_curves({"a": run_of([3.0, 2.0, math.nan, 1.0])}).runs["a"]
    assert line(drawn, "Loss (nats)") == ([0, 1, 2, 3], [3.0, 2.0, None, 1.0])
    assert not drawn["thinned"]


def test_extremes_gaps_and_events_outlive_the_thinning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves_module, "_POINTS", 900)
    loss = [2.0 + 0.1 * math.sin(step) for step in range(20_000)]
    loss[1234], loss[7777], loss[15_000] = 50.0, 0.01, math.inf
    found = page_curves({"a": run_of(loss, skipped={9, 15_000})})
    drawn = found.runs["a"]
    steps, values = line(drawn, "Loss (nats)")
    assert len(steps) < 400
    points = dict(zip(steps, values, strict=True))
    assert (points[1234], points[7777], points[15_000]) == (50.0, 0.01, None)
    assert drawn["thinned"]
    events = {event["name"]: np.cumsum(event["steps"]).tolist() for event in drawn["events"]}
    assert events == {"skipped (2)": [9, 15_000], "loss not finite (1)": [15_000]}
    every = page_curves({"a": run_of(loss, skipped=set(range(0, 20_000, 2)))}).runs["a"]
    skipped = every["events"][0]
    assert skipped["name"] == "skipped (10000)"
    assert 150 < len(skipped["steps"]) <= 300


def test_runs_past_the_room_of_a_page_are_said_to_be_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(curves_module, "_POINTS", 500)
    found = page_curves({name: run_of([2.0, 1.0]) for name in "abcd"})
    assert list(found.runs) == ["a", "b"]
    assert "first 2 of 4 runs" in found.notes[0]


def test_figures_leave_less_room_for_curves() -> None:
    run = run_of([float(step % 7) for step in range(30_000)])
    sizes = [
        len(json.dumps(dict(page_curves({"a": run}, room).runs)))
        for room in (10_000_000, 400_000, -1)
    ]
    assert sizes[0] > 400_000 > sizes[1] > sizes[2] > 100_000


def test_what_is_drawn_is_json() -> None:
    found = page_curves({"a": run_of([3.0, math.inf, -math.inf])})
    json.dumps(found.runs, allow_nan=False)
