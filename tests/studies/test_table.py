from collections.abc import Callable
from pathlib import Path

import pandas as pd

from gradlab.config import RunConfig, ScheduleConfig
from gradlab.runs.memory import MemoryWriter
from gradlab.runs.reader import Run
from gradlab.runs.verdict import Verdict
from gradlab.studies.table import RUNS, STABILITY

Make = Callable[..., RunConfig]


def ended(config: RunConfig, **verdict: object) -> Run:
    writer = MemoryWriter(config, {"params": 1000})
    if verdict:
        writer.finish("finished", Verdict(**verdict))
    return writer.run()


def test_a_row_a_run_that_has_ended(make_config: Make, tmp_path: Path) -> None:
    runs = [
        ended(make_config(), reason="completed", step=11),
        ended(make_config(seed=1)),
        ended(make_config("post-ln", seed=1), reason="loss_rise", step=7, lr=1e-3),
    ]
    RUNS.write(tmp_path, runs)
    rows = pd.read_csv(tmp_path / "runs.csv").to_dict("records")
    same = {"size": "tiny", "params": 1000, "lr": 1e-3, "warmup": 0, "steps": 12}
    assert rows == [
        {**same, "arch": "pre-ln", "seed": 0, "reason": "completed", "step": 11},
        {**same, "arch": "post-ln", "seed": 1, "reason": "loss_rise", "step": 7},
    ]


def test_the_stability_test_says_where_each_run_broke(make_config: Make, tmp_path: Path) -> None:
    ramp = make_config(schedule=ScheduleConfig(kind="ramp", lr_step=2e-4))
    site = "blocks.0.attention.scores"
    found = {"step": 9, "lr": 0.0018, "lr_min_loss": 0.001, "first_overflow": site}
    STABILITY.write(tmp_path, [ended(ramp, reason="loss_nonfinite", **found)])
    (row,) = pd.read_csv(tmp_path / "stability.csv").to_dict("records")
    assert tuple(row) == STABILITY.columns
    assert {name: row[name] for name in found} == found
    assert (row["lr_step"], row["censored"]) == (2e-4, False)
