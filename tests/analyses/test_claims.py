"""Each claim on tables made so that it holds, and on tables made so that it does not."""

import math
from typing import Any

import pandas as pd
import pytest

from gradlab.analyses.claim import (
    NOT_DISTINGUISHED,
    NOT_SEEN,
    SEEN,
    Claim,
    StudyTables,
    judge,
    judge_all,
    verdict_on,
)
from gradlab.analyses.claim_estimates import Estimate, plain
from gradlab.analyses.claim_tables import last_scales, loss_tables, mismatch_tables, scale_tables
from gradlab.analyses.claims import ATTENTION, CLAIMS, FULLY_CONNECTED
from gradlab.analyses.final_losses import COLUMNS
from gradlab.models.presets import TABLE_4
from gradlab.runs.reader import Run

LAYERS = 6
NOISE = (0.99, 1.0, 1.01)
"""A factor for each seed: every interval is narrow."""


def made(holds: bool) -> dict[str, StudyTables]:
    """The studies' tables in a world in which every claim holds, or none."""
    sign = 1 if holds else -1

    def size(log: float) -> float:
        return math.exp(sign * log)

    mismatch = [
        {"arch": arch, "seed": seed, "window": "late", "op": op, "ratio": noise * ratio}
        for seed, noise in enumerate(NOISE)
        for op in FULLY_CONNECTED
        for arch, ratio in (
            ("post-ln", size(-1.0)),
            ("pre-ln", size(1.0)),
            ("normformer", math.exp(1 - 0.5 * sign)),
        )
    ]
    depth = [2 * layer / (LAYERS - 1) - 1 for layer in range(LAYERS)]  # −1 to 1
    relative = [
        {"arch": "normformer", "seed": seed, "window": "late", "n_layers": LAYERS}
        | {"op": op, "layer": layer, "ratio": noise * ratio}
        for seed, noise in enumerate(NOISE)
        for layer in range(LAYERS)
        for op, ratio in [
            *((op, size(-0.5)) for op in ATTENTION),
            *((op, size(depth[layer])) for op in FULLY_CONNECTED),
        ]
    ]
    # Head scales of two heads a layer: without a relation, or on a line.
    scales = [
        {"arch": arch, "seed": seed, "op": op, "layer": layer, "value": noise * value}
        for seed, noise in enumerate(NOISE)
        for layer in range(LAYERS)
        for arch, op, values in (
            ("normformer", "ffn_mid_norm", [1 + 0.1 * sign * depth[layer]]),
            ("normformer", "attn_out_norm", [1 - 0.1 * sign]),
            ("normformer", "head_scale", [0.5, 1.5] if holds else [depth[layer], depth[layer]]),
            ("normformer-resscale", "lambda_resid", [1 - 0.1 * sign * depth[layer]]),
        )
        for value in values
    ]
    breaks = [
        {"size": "nano", "params": 9, "arch": arch, "seed": seed, "lr_step": 2e-4, "step": 5}
        | {"reason": "loss_rise", "lr": noise * lr, "censored": False, "first_overflow": None}
        | {"lr_min_loss": 0.01, "lr_collapse": None}
        for arch, lr, noises in (
            ("pre-ln", 1.0, NOISE[::-1]),
            ("normformer", size(0.5), NOISE),
            ("normformer-resscale", 1.0, NOISE[::-1]),
        )
        for seed, noise in enumerate(noises)
    ]
    worth = dict(zip(TABLE_4, [0.0, 0.1, 0.2, 0.3, 0.1, 0.1, 0.5], strict=True))
    losses = [
        ["nano", arch, seed, 3e-3, 500, "completed", 5.6, 2 + sign * loss + 0.001 * seed, 9.0]
        for arch, loss in worth.items()
        for seed in range(3)
    ]
    # NormFormer is first as good after 40 or 120 of the baseline's 80 seconds.
    curves = [
        {"size": "nano", "arch": arch, "seed": seed, "seconds": noise * seconds}
        | {"perplexity": perplexity, "flops": 1.0, "tokens": 1.0}
        for arch, noises, points in (
            ("pre-ln", NOISE[::-1], [(40.0, 8.0), (80.0, 6.0)]),
            ("normformer", NOISE, [(40.0 if holds else 120.0, 6.0)]),
        )
        for seed, noise in enumerate(noises)
        for seconds, perplexity in points
    ]
    return {
        "gradients": StudyTables("micro", {"mismatch": pd.DataFrame(mismatch)}),
        "scales": StudyTables(
            "nano", {"relative": pd.DataFrame(relative), "scales": pd.DataFrame(scales)}
        ),
        "stability": StudyTables("nano", {"stability": pd.DataFrame(breaks)}),
        "ablation": StudyTables(
            "nano",
            {
                "losses": pd.DataFrame(losses, columns=COLUMNS),
                "curves": pd.DataFrame(curves),
            },
        ),
    }


@pytest.mark.parametrize(("holds", "verdict"), [(True, SEEN), (False, NOT_SEEN)])
def test_every_claim_is_seen_where_it_holds_and_not_where_it_does_not(
    holds: bool, verdict: str
) -> None:
    table = judge_all(CLAIMS, made(holds)).set_index("claim")
    assert table["verdict"].to_dict() == dict.fromkeys(table.index, verdict)
    assert set(table["seeds"]) == {3}
    assert len(table) == len(CLAIMS) == 23
    sign = 1 if holds else -1
    numbers = table["number"].to_dict()
    centre = math.exp(sum(math.log(noise) for noise in NOISE) / 3)
    assert numbers["post-ln-gradients"] == pytest.approx(centre * math.exp(-sign))
    assert numbers["normformer-fc1"] == pytest.approx(math.exp(-0.5 * sign), rel=1e-3)
    # The last two layers of six lie at 0.6 and 1 of depths from −1 to 1.
    assert numbers["fc-late-gradients"] == pytest.approx(centre * math.exp(0.8 * sign))
    assert numbers["lambda-depth"] == pytest.approx(-0.2 * sign)
    assert numbers["normformer-stability"] == pytest.approx(math.exp(0.5 * sign))
    assert numbers["without-ffn-ln"] == pytest.approx(math.exp(0.2 * sign))
    assert numbers["normformer-perplexity"] == pytest.approx(math.exp(-0.4 * sign))
    assert numbers["compute-saved"] == pytest.approx(0.5 if holds else -0.5)


def claim(**side: float) -> Claim:
    return Claim("c", "says", "figure 0", "s", "t", "meaning", lambda _: plain([]), **side)


@pytest.mark.parametrize(
    ("side", "low", "high", "verdict"),
    [
        ({"above": 1}, 1.1, 2.0, SEEN),
        ({"above": 1}, 0.5, 0.9, NOT_SEEN),
        ({"above": 1}, 0.5, 1.5, NOT_DISTINGUISHED),
        ({"above": 1}, 1.0, 1.5, NOT_DISTINGUISHED),
        ({"below": 0}, -2.0, -0.1, SEEN),
        ({"below": 0}, 0.1, 0.2, NOT_SEEN),
        ({"above": -1, "below": 1}, -0.9, 0.9, SEEN),
        ({"above": -1, "below": 1}, 0.9, 1.1, NOT_DISTINGUISHED),
        ({"above": -1, "below": 1}, -2.0, 2.0, NOT_DISTINGUISHED),
        ({"above": -1, "below": 1}, -2.0, -1.1, NOT_SEEN),
        ({"above": -1, "below": 1}, math.nan, math.nan, NOT_DISTINGUISHED),
    ],
)
def test_one_rule_makes_the_verdict(
    side: dict[str, Any], low: float, high: float, verdict: str
) -> None:
    assert verdict_on(claim(**side), Estimate((low + high) / 2, low, high, 3)) == verdict


def test_a_study_that_is_not_finished_says_so() -> None:
    row = judge(claim(above=1), StudyTables("nano", missing="4 of 9 runs so far"))
    assert row["verdict"] == "4 of 9 runs so far"
    assert row["seeds"] == 0
    assert math.isnan(row["number"])


def test_names_are_unlike() -> None:
    assert len({claim.name for claim in CLAIMS}) == len(CLAIMS)
    assert len({claim.says for claim in CLAIMS}) == len(CLAIMS)


def test_the_tables_of_real_runs_as_plain_pandas_has_them(trained: list[Run]) -> None:
    curves = loss_tables(trained, 28.0)["curves"]
    entries = last_scales(trained)
    for run in trained:
        arch, seed = run.config.arch, run.config.seed
        mine = curves[(curves["arch"] == arch) & (curves["seed"] == seed)]
        taken = run.table("steps").query("val_loss.notna()")["step"] + 1
        # Fourteen steps in 28 seconds.
        assert mine["seconds"].tolist() == [2.0 * count for count in taken]
        recorded = run.table("scales").query("step == 13 and layer.notna()")
        mine = entries[(entries["arch"] == arch) & (entries["seed"] == seed)]
        for op in recorded["op"].unique():
            expected = recorded.loc[recorded["op"] == op, "value"].tolist()
            assert mine.loc[mine["op"] == op, "value"].tolist() == expected
    assert set(entries["arch"]) == {"pre-ln", "normformer-resscale"}


def test_a_real_study_has_what_the_claims_need(trained: list[Run]) -> None:
    mismatch = mismatch_tables(trained, length=4)["mismatch"]
    found = scale_tables(trained, length=4)
    assert set(mismatch["arch"]) == {"pre-ln", "normformer-resscale"}
    assert set(found) == {"relative", "scales"}
    slope = next(each for each in CLAIMS if each.name == "lambda-depth")
    got = judge(slope, StudyTables("nano", found))
    slopes = []
    for run in trained:
        if run.config.arch == "normformer-resscale":
            last = run.table("scales").query("step == 13 and op == 'lambda_resid'")
            layers = last.groupby("layer")["value"].mean().to_numpy()
            slopes.append(layers[2] - layers[0])  # of three layers, the slope over the depth
    assert got["number"] == pytest.approx(sum(slopes) / 2)
    assert got["seeds"] == 2
