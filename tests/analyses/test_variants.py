import math
import statistics
from typing import Any

import numpy as np
import pandas as pd
import pytest
from by_hand import interval
from made_up_runs import nano, write_rows

from gradlab.analyses.variants import (
    VARIANT_COLUMNS,
    summarise_variants,
    variant_differences,
    variant_losses,
)
from gradlab.config import OptimizerConfig
from gradlab.errors import GradlabError
from gradlab.runs.memory import MemoryWriter
from gradlab.runs.reader import Run
from gradlab.runs.verdict import Verdict

# What a variant adds to all losses, and normformer's lead in it.
KNOWN = {"twice-lr": (0.4, -0.02), "base": (0.0, -0.05), "grad-clip": (1.0, 0.03)}


def study(seeds: int = 4, noise: float = 0.001) -> pd.DataFrame:
    """Losses that the variant, the lead and a large part of the seed's make up."""
    rng = np.random.default_rng(0)
    rows = [
        [variant, "nano", arch, seed, 3e-3, steps, "completed", 5.6, loss, 9.0 + seed]
        for variant, (level, lead) in KNOWN.items()
        for seed in range(seeds)
        for arch, worth, steps in (("pre-ln", 0.0, 500), ("normformer", lead, 440))
        for loss in [2 + level + worth + 0.3 * seed + noise * rng.normal()]
    ]
    return pd.DataFrame(rows, columns=VARIANT_COLUMNS)


def recorded(
    arch: str = "pre-ln", variant: str = "base", seed: int = 0, *, loss: float | None = 2.0,
    steps: int = 4, **fields: Any,
) -> Run:  # fmt: skip
    fields = {"val_every": steps, **fields}
    config = nano(arch, seed, variant=variant, steps=steps, **fields)
    writer = MemoryWriter(config, {"corpus": {"name": "x", "sha256": "a"}})
    ends = {"step": [0, steps - 1], "loss": [5.5, 3.0], "val_loss": [None, loss]}
    write_rows(writer, "steps", **ends, seconds=[0.5, 2.0])
    reason = "loss_rise" if loss is None else "completed"
    writer.finish("finished", Verdict(reason=reason, step=steps - 1))
    return writer.run()


def test_runs_become_rows_variant_by_variant() -> None:
    clip = {"optimizer": OptimizerConfig(clip_norm=0.1)}
    runs = [
        recorded("pre-ln", loss=2.5),
        recorded("pre-ln", "grad-clip", loss=2.75, **clip),
        recorded("normformer", steps=3, loss=2.25),
        recorded("normformer", "grad-clip", loss=None, **clip),
    ]
    found = variant_losses(runs)
    expected = [
        ["base", "nano", "pre-ln", 0, 1e-3, 4, "completed", 5.5, 2.5, 2.0],
        ["base", "nano", "normformer", 0, 1e-3, 3, "completed", 5.5, 2.25, 2.0],
        ["grad-clip", "nano", "pre-ln", 0, 1e-3, 4, "completed", 5.5, 2.75, 2.0],
        ["grad-clip", "nano", "normformer", 0, 1e-3, 4, "loss_rise", 5.5, math.nan, 2.0],
    ]
    pd.testing.assert_frame_equal(found, pd.DataFrame(expected, columns=VARIANT_COLUMNS))


def test_within_a_variant_runs_must_compare() -> None:
    clip = {"optimizer": OptimizerConfig(clip_norm=0.1)}
    with pytest.raises(GradlabError, match="their optimizers differ"):
        variant_losses([recorded(), recorded("normformer", **clip)])
    with pytest.raises(GradlabError, match="are both pre-ln with seed 0"):
        variant_losses([recorded(), recorded()])
    assert list(variant_losses([]).columns) == VARIANT_COLUMNS


def test_a_summary_is_plain_statistics_of_each_row() -> None:
    table = study()
    summary = summarise_variants(table)
    assert summary["variant"].tolist() == [name for name in KNOWN for _ in range(2)]
    assert summary["arch"].tolist() == ["pre-ln", "normformer"] * 3
    assert summary["steps"].tolist() == [500, 440] * 3
    for row in summary.to_dict("records"):
        rows = table[(table["variant"] == row["variant"]) & (table["arch"] == row["arch"])]
        losses = rows["val_loss"].tolist()
        spread = (row["loss"], row["loss_low"], row["loss_high"])
        assert spread == pytest.approx(interval(losses))
        assert (row["loss_min"], row["loss_max"]) == (min(losses), max(losses))
        assert row["perplexity"] == pytest.approx(math.exp(statistics.fmean(losses)))
        assert (row["runs"], row["broke"], row["failed"], row["interrupted"]) == (4, 0, 0, 0)


def test_a_known_study_gives_its_leads_back() -> None:
    exact = variant_differences(study(noise=0), baseline="pre-ln").set_index("variant")
    assert exact["difference"].to_dict() == pytest.approx(
        {n: lead for n, (_, lead) in KNOWN.items()}
    )
    noisy = variant_differences(study(), baseline="pre-ln")
    assert noisy["distinguished"].all()
    assert noisy[["reference", "arch"]].drop_duplicates().to_numpy().tolist() == [
        ["pre-ln", "normformer"]
    ]
    drowned = variant_differences(study(noise=0.5), baseline="pre-ln")
    assert not drowned["distinguished"].all()


def test_differences_are_over_pairs_of_one_variant_and_seed() -> None:
    table = study(noise=0.05)
    losses = table.set_index(["variant", "arch", "seed"])["val_loss"]
    for row in variant_differences(table, baseline="pre-ln").to_dict("records"):
        pairs = [
            losses[row["variant"], "normformer", seed] - losses[row["variant"], "pre-ln", seed]
            for seed in range(4)
        ]
        assert (row["difference"], row["low"], row["high"]) == pytest.approx(interval(pairs))
        assert (row["seeds"], row["pairs"]) == (4, 4)


def test_a_run_that_broke_takes_its_pair_along() -> None:
    table = study(noise=0)
    place = (table["variant"] == "base") & (table["arch"] == "pre-ln") & (table["seed"] == 2)
    table.loc[place, ["reason", "val_loss"]] = ["loss_rise", math.nan]
    found = variant_differences(table, baseline="pre-ln").set_index("variant")
    assert found["pairs"].to_dict() == {"twice-lr": 4, "base": 3, "grad-clip": 4}
    assert found.loc["base", "difference"] == pytest.approx(-0.05)
    summary = summarise_variants(table).set_index(["variant", "arch"])
    assert summary.loc[("base", "pre-ln"), ["runs", "broke"]].tolist() == [3, 1]


def test_variants_without_the_baseline_have_no_differences() -> None:
    table = study()
    table = table[(table["variant"] == "base") | (table["arch"] == "normformer")]
    assert variant_differences(table, baseline="pre-ln")["variant"].tolist() == ["base"]
    assert variant_differences(table.head(0), baseline="pre-ln").empty
    with pytest.raises(GradlabError, match="unknown baseline 'prel-n'"):
        variant_differences(table, baseline="prel-n")
