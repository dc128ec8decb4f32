"""Whether the forecast's trial counts what it says that it counts."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.forecast.__main__ import main
from benchmarks.forecast.judge import judged, said_before, threshold
from benchmarks.forecast.record import RECORD
from benchmarks.forecast.signals import Watched


def run(break_step: int | None, values: dict[int, float], name: str = "loss") -> Watched:
    return Watched(0, break_step, {name: pd.Series(values, dtype=float)})


def test_a_threshold_is_the_lowest_with_few_false_alarms() -> None:
    steady = [run(None, {0: 0.0, 10: float(peak), 20: 1.0}) for peak in range(2, 42)]
    limit = threshold([*steady, run(30, {0: 99.0})], "loss")
    alarms = [one.signals["loss"].max() > limit for one in steady]
    assert sum(alarms) == 2  # 5 % of 40
    assert threshold(steady[:19], "loss") == 20.0  # not one of fewer than 20


def test_a_warning_counts_from_thirty_steps_before_the_break() -> None:
    chosen_on = [run(None, {0: 1.0})]
    runs = [
        run(100, {10: 1.0, 70: 2.0, 90: 0.0}),
        run(100, {71: 2.0}),
        run(200, {60: 5.0, 100: 9.0}),
        run(100, {99: 1.0}),
        run(None, {5: 1.0}),
        run(None, {5: 1.5}),
    ]
    (row,) = judged(chosen_on, runs).to_dict("records")
    assert row == {
        **{"signal": "loss", "threshold": 1.0, "breaks": 4, "warned": 2},
        **{"lead": 30.0, "least": 29, "most": 140, "steady": 2, "false_alarms": 1},
    }


def test_what_was_said_is_that_of_the_last_look() -> None:
    runs = [
        run(100, {40: -80.0, 50: -60.0, 60: -30.0}, "forecast"),
        run(100, {50: -np.inf, 60: -20.0}, "forecast"),
        run(None, {50: -1.0}, "forecast"),
    ]
    table = said_before(runs, (50, 35)).set_index("left")
    assert table.loc[50, ["breaks", "said", "median"]].tolist() == [2, 1, 60.0]
    assert table.loc[35, ["breaks", "said", "median"]].tolist() == [2, 2, 25.0]


@pytest.mark.slow
def test_it_runs_and_keeps_what_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["--folder", str(tmp_path), "--quick"])
    first = capsys.readouterr().out
    kept = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.json")}
    main(["--folder", str(tmp_path), "--quick"])
    again = capsys.readouterr().out
    assert first.splitlines() == [
        *(f.parent.name for f in sorted(kept, key=kept.__getitem__) if f.name == RECORD),
        *again.splitlines(),
    ]
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.json")} == kept
    with pytest.raises(SystemExit, match="no steady run"):
        main(["--folder", str(tmp_path), "--recorded", "--held-out", "0"])
