import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from by_hand import geometric_interval
from made_up_runs import nano, write_rows

from gradlab.analyses.compute import (
    compute_saved,
    mean_curves,
    perplexity_curves,
    reach,
    summarise_saved,
)
from gradlab.config import ScheduleConfig
from gradlab.errors import GradlabError
from gradlab.runs.memory import MemoryWriter
from gradlab.runs.reader import Run


def recorded(
    losses: list[float], arch: str = "pre-ln", seed: int = 0, *, version: int = 2, **fields: Any
) -> Run:
    """A validation every second step, and after the last; steps take a second."""
    fields = {"val_every": 2, "steps": 2 * len(losses) or 1, **fields}
    config = nano(arch, seed, **fields)
    writer = MemoryWriter(config, {"corpus": {"sha256": "a"}, "schema_version": version})
    steps = list(range(config.steps))
    found = dict(zip(filter(config.validates_after, steps), losses, strict=False))
    write_rows(
        writer,
        "steps",
        step=steps,
        val_loss=[found.get(step) for step in steps],
        tokens=[(step + 1) * config.tokens_per_step for step in steps],
        seconds=[step + 1.0 for step in steps],
    )
    return writer.run()


def test_a_real_run_as_plain_pandas_has_it(trained: list[Run]) -> None:
    found = perplexity_curves(trained)
    assert found["step"].unique().tolist() == [2, 5, 8, 11, 13]
    for run in trained:
        key = (found["arch"] == run.config.arch) & (found["seed"] == run.config.seed)
        steps = run.table("steps").dropna(subset="val_loss")
        np.testing.assert_allclose(found.loc[key, "perplexity"], np.exp(steps["val_loss"]))
        assert found.loc[key, "seconds"].tolist() == steps["seconds"].tolist()
        # 6 · (3 layers · (4 · 16² + 2 · 16 · 32) + 256 · 16) + 12 · 3 · 16 · 8 a token, 16 tokens
        flops = [16 * (step + 1) * (6 * (3 * 2048 + 4096) + 4608) for step in (2, 5, 8, 11, 13)]
        assert found.loc[key, "flops"].tolist() == flops


def test_where_a_curve_first_is_as_low() -> None:
    x = [1.0, 2.0, 3.0, 4.0]
    baseline = pd.DataFrame({"flops": x, "perplexity": [9.0, 6.0, 5.0, 5.5]})
    lower = pd.DataFrame({"flops": x, "perplexity": [7.0, 5.0, 4.0, 6.0]})
    found = reach(lower, baseline)
    assert found == {"best": 5.0, "needed": 3.0, "at": 2.0, "reached": 5.0, "saved": 1 - 2 / 3}
    never = reach(baseline.assign(perplexity=8.0), baseline)
    assert math.isnan(never["at"])
    assert math.isnan(never["saved"])
    assert reach(baseline, baseline)["saved"] == 0
    broken = baseline.assign(perplexity=math.nan)
    assert math.isnan(reach(lower, broken)["needed"])


def study() -> list[Run]:
    return [
        recorded([3.0, 2.0, 1.5, 1.0], seed=0),
        recorded([3.0, 2.0, 1.4, 1.1], seed=1),
        recorded([2.5, 1.0, 0.9, 0.8], "normformer", seed=0),
        recorded([2.5, 1.2, 1.1, 0.9], "normformer", seed=1),
    ]


def test_the_share_saved_is_over_pairs_of_seeds() -> None:
    curves = perplexity_curves(study())
    saved = compute_saved(curves, baseline="pre-ln", compute="seconds")
    assert saved[["needed", "at"]].to_numpy().tolist() == [[8, 4], [8, 6]]
    assert saved["saved"].tolist() == [0.5, 0.25]
    row = summarise_saved(saved).iloc[0]
    left, most, least = geometric_interval([0.5, 0.75])
    assert row[["pairs", "reached"]].tolist() == [2, 2]
    assert row[["saved", "low", "high"]].tolist() == pytest.approx([1 - left, 1 - least, 1 - most])
    assert not row["distinguished"]


def test_a_seed_that_never_came_as_low_is_counted() -> None:
    runs = [*study()[:3], recorded([2.5] * 4, "normformer", seed=1)]
    saved = compute_saved(perplexity_curves(runs), baseline="pre-ln")
    row = summarise_saved(saved).iloc[0]
    assert row[["pairs", "reached", "saved"]].tolist() == [2, 1, 0.5]
    assert not row["distinguished"]


def test_mean_curves_are_geometric_and_say_how_many_runs() -> None:
    runs = [recorded([2.0, 1.0], seed=0), recorded([3.0, math.nan], seed=1)]
    found = mean_curves(perplexity_curves(runs))
    assert found["runs"].tolist() == [2, 1]
    np.testing.assert_allclose(found["perplexity"], np.exp([2.5, 1.0]))
    np.testing.assert_allclose(found[["low", "high"]].iloc[0], np.exp([2.0, 3.0]))
    assert found["tokens"].tolist() == [1024, 2048]


def test_validations_that_are_not_finite_are_rows() -> None:
    found = perplexity_curves([recorded([2.0, math.nan, math.inf, 1000.0])])
    assert np.isnan(found["perplexity"][1])
    assert found["perplexity"][2:].tolist() == [math.inf, math.inf]


def test_the_last_step_is_validated_whatever_val_every() -> None:
    found = perplexity_curves([recorded([2.0, 1.5, math.nan], steps=5)])
    assert found["step"].tolist() == [1, 3, 4]
    assert np.isnan(found["perplexity"][2])
    old = perplexity_curves([recorded([2.0, 1.5], steps=5, version=1)])
    assert old["step"].tolist() == [1, 3]


def test_the_schedule_may_differ_and_nothing_else() -> None:
    first = recorded([2.0])
    longer = recorded([2.0, 1.0], "normformer", schedule=ScheduleConfig(lr=2e-3))
    assert len(perplexity_curves([first, longer])) == 3
    with pytest.raises(GradlabError, match="their batches differ"):
        perplexity_curves([first, recorded([2.0], "normformer", batch_size=3)])


def test_what_cannot_be_compared_is_refused() -> None:
    curves = perplexity_curves(study())
    with pytest.raises(GradlabError, match="has no validation: train it with --val-every"):
        perplexity_curves([recorded([], val_every=0)])
    with pytest.raises(GradlabError, match="unknown baseline 'prel-n'"):
        compute_saved(curves, baseline="prel-n")
    with pytest.raises(GradlabError, match="unknown compute 'days'"):
        compute_saved(curves, baseline="pre-ln", compute="days")
