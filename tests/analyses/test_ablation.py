import math
import statistics
from typing import Any

import numpy as np
import pandas as pd
import pytest
from by_hand import interval

from gradlab.analyses.ablation import ablation_differences, summarise_ablation
from gradlab.analyses.final_losses import COLUMNS
from gradlab.errors import GradlabError
from gradlab.models.presets import ALL_OPERATIONS, BASELINE, TABLE_4, model_config

WORTH = dict(zip(TABLE_4, [0.0, 0.01, 0.05, 0.04, 0.02, -0.01, 0.1], strict=True))


def study(seeds: int = 4, noise: float = 0.003) -> pd.DataFrame:
    """Losses that a row's worth and a large part of the seed's make up; rows in another order."""
    rng = np.random.default_rng(0)
    rows = [
        ["nano", arch, seed, 3e-3, 500 - 10 * place, "completed", 5.6, loss, 9.0 + seed]
        for seed in range(seeds)
        for place, (arch, worth) in enumerate(reversed(WORTH.items()))
        for loss in [2 + worth + 0.3 * seed + noise * rng.normal()]
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def spoiled(**fields: Any) -> pd.DataFrame:
    """The study with one run changed: the second seed's without the FFN LN."""
    table = study()
    place = (table["arch"] == "minus-ffn-ln") & (table["seed"] == 1)
    table.loc[place, list(fields)] = list(fields.values())
    return table


def test_the_rows_are_the_models_of_table_4() -> None:
    switches = ("attn_out_norm", "ffn_mid_norm", "head_scale", "res_scale", "qkv_norm")
    models = [model_config(arch, "nano") for arch in TABLE_4]
    assert [tuple(getattr(model, name) for name in switches) for model in models] == [
        (True, True, "heads", "ffn", False),
        (False, True, "heads", "ffn", False),
        (True, False, "heads", "ffn", False),
        (True, True, "none", "ffn", False),
        (True, True, "heads", "none", False),
        (True, True, "heads", "ffn", True),
        (False, False, "none", "none", False),
    ]


def test_a_summary_is_plain_statistics_of_each_row() -> None:
    table = study()
    summary = summarise_ablation(table)
    assert summary["arch"].tolist() == list(TABLE_4)
    assert summary["row"].tolist() == list(TABLE_4.values())
    for row in summary.to_dict("records"):
        losses = table[table["arch"] == row["arch"]]["val_loss"].tolist()
        spread = (row["loss"], row["loss_low"], row["loss_high"])
        assert spread == pytest.approx(interval(losses))
        assert (row["loss_min"], row["loss_max"]) == (min(losses), max(losses))
        perplexities = [math.exp(loss) for loss in losses]
        assert row["perplexity"] == pytest.approx(statistics.geometric_mean(perplexities))
        assert row["seconds"] == pytest.approx(10.5)
    assert summary.set_index("arch").loc[BASELINE, "steps"] == 500
    assert summary.set_index("arch").loc[ALL_OPERATIONS, "steps"] == 440


def test_differences_are_over_pairs_of_seeds() -> None:
    table = study()
    found = ablation_differences(table)
    assert len(found) == 2 * 6
    for row in found.to_dict("records"):
        losses = table.set_index(["arch", "seed"])["val_loss"]
        pairs = [losses[row["arch"], seed] - losses[row["reference"], seed] for seed in range(4)]
        assert (row["difference"], row["low"], row["high"]) == pytest.approx(interval(pairs))
        assert row["perplexity"] == pytest.approx(math.exp(statistics.fmean(pairs)))
        assert (row["seeds"], row["pairs"]) == (4, 4)


def test_a_known_study_gives_its_worths_back() -> None:
    found = ablation_differences(study(noise=0)).set_index(["reference", "arch"])
    for arch, worth in WORTH.items():
        if arch != ALL_OPERATIONS:
            assert found.loc[(ALL_OPERATIONS, arch), "difference"] == pytest.approx(worth)
        if arch != BASELINE:
            assert found.loc[(BASELINE, arch), "difference"] == pytest.approx(worth - 0.1)
    noisy = ablation_differences(study()).set_index(["reference", "arch"])
    assert noisy.loc[(ALL_OPERATIONS, "minus-ffn-ln"), "distinguished"]
    none = study(noise=0.5).assign(val_loss=lambda t: t["val_loss"] - t["arch"].map(WORTH))
    assert not ablation_differences(none)["distinguished"].all()


@pytest.mark.parametrize(
    ("fields", "count"),
    [
        ({"reason": "loss_rise", "val_loss": math.nan}, "broke"),
        ({"val_loss": math.nan}, "broke"),
        ({"val_loss": math.inf}, "broke"),
        ({"reason": "error", "val_loss": math.nan}, "failed"),
        ({"reason": "interrupted", "val_loss": math.nan}, "interrupted"),
    ],
)
def test_a_run_without_a_loss_is_counted(fields: dict[str, Any], count: str) -> None:
    table = spoiled(**fields)
    summary = summarise_ablation(table).set_index("arch")
    row = summary.loc["minus-ffn-ln"]
    counts = ["runs", "broke", "failed", "interrupted"]
    assert row[counts].to_dict() == {"runs": 3, "broke": 0, "failed": 0, "interrupted": 0, count: 1}
    left = table[(table["arch"] == "minus-ffn-ln") & (table["seed"] != 1)]["val_loss"]
    assert row["loss"] == pytest.approx(left.mean())
    differences = ablation_differences(table).set_index(["reference", "arch"])
    assert differences.loc[(ALL_OPERATIONS, "minus-ffn-ln"), ["seeds", "pairs"]].tolist() == [4, 3]
    assert differences.loc[(ALL_OPERATIONS, "normformer"), ["seeds", "pairs"]].tolist() == [4, 4]
    values = table.pivot(index="seed", columns="arch", values="val_loss").drop(index=1)
    expected = (values["minus-ffn-ln"] - values[BASELINE]).mean()
    assert differences.loc[(BASELINE, "minus-ffn-ln"), "difference"] == pytest.approx(expected)


def test_one_seed_has_no_interval() -> None:
    one = study(seeds=1)
    assert summarise_ablation(one)[["loss_low", "loss_high"]].isna().all(axis=None)
    differences = ablation_differences(one)
    assert (differences["pairs"] == 1).all()
    assert not differences["distinguished"].any()


def test_a_row_that_never_ended_has_no_loss() -> None:
    table = study(seeds=2)
    table.loc[table["arch"] == ALL_OPERATIONS, ["reason", "val_loss"]] = ["loss_rise", math.nan]
    summary = summarise_ablation(table).set_index("arch")
    assert summary.loc[ALL_OPERATIONS, ["loss", "perplexity"]].isna().all()
    differences = ablation_differences(table)
    assert (differences.loc[differences["reference"] == ALL_OPERATIONS, "pairs"] == 0).all()


def test_other_rows_and_missing_references() -> None:
    table = study()
    table = table[table["arch"].isin([BASELINE, "normformer"])].replace("normformer", "mine")
    assert summarise_ablation(table)["row"].tolist() == [TABLE_4[BASELINE], "mine"]
    assert ablation_differences(table)[["reference", "arch"]].to_numpy().tolist() == [
        [BASELINE, "mine"]
    ]


def test_one_row_of_two_studies_is_refused() -> None:
    table = spoiled(steps=77)
    with pytest.raises(GradlabError, match="minus-ffn-ln were to take different numbers of steps"):
        summarise_ablation(table)
