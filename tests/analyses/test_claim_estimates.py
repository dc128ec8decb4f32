"""Estimates against plain numpy on tables with a known answer."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from by_hand import geometric_interval, interval

from gradlab.analyses.claim_estimates import (
    Estimate,
    break_ratio,
    geometric,
    gradient_mismatch,
    largest_relative_gradient,
    largest_scale_mean,
    perplexity_ratio,
    plain,
    relative_gradient,
    remaining_mismatch,
    scale_correlation,
    scale_mean,
    scale_slope,
    share_saved,
)
from gradlab.analyses.final_losses import COLUMNS


def same(found: Estimate, values: Sequence[float]) -> None:
    assert (found.number, found.low, found.high) == pytest.approx(interval(values))
    assert found.seeds == len(values)


def same_logs(found: Estimate, ratios: Sequence[float]) -> None:
    assert (found.number, found.low, found.high) == pytest.approx(geometric_interval(ratios))
    assert found.seeds == len(ratios)


def nothing(found: Estimate) -> None:
    assert math.isnan(found.number)
    assert math.isnan(found.low)
    assert found.seeds == 0


def test_an_estimate_leaves_out_what_is_not_finite() -> None:
    same(plain([1.0, 2.0, math.nan, 4.0, math.inf]), [1, 2, 4])
    same_logs(geometric([0.5, 0.0, 4.0, math.inf]), [0.5, 4.0])
    one = plain([3.0])
    assert (one.number, one.seeds) == (3, 1)
    assert math.isnan(one.low)
    nothing(plain([]))
    nothing(geometric([math.nan]))


def mismatch(ratios: dict[str, list[float]], op: str = "fc2") -> pd.DataFrame:
    """Late ratios by architecture, a seed each; early ones of 100, and of another op 1000."""
    return pd.DataFrame(
        [
            {"arch": arch, "seed": seed, "window": window, "op": name, "ratio": ratio}
            for arch, seeds in ratios.items()
            for seed, late in enumerate(seeds)
            for window, name, ratio in (
                ("late", op, late),
                ("early", op, 100.0),
                ("late", "q", 1000.0),
            )
        ]
    )


def test_the_mismatch_is_the_late_one_of_the_op() -> None:
    table = mismatch({"pre-ln": [3.0, 2.5, 3.5], "post-ln": [0.5, math.nan, 0.7]})
    same_logs(gradient_mismatch(table, "pre-ln", "fc2"), [3.0, 2.5, 3.5])
    same_logs(gradient_mismatch(table, "post-ln", "fc2"), [0.5, 0.7])
    nothing(gradient_mismatch(table, "normformer", "fc2"))


def test_the_remaining_mismatch_counts_an_overshoot() -> None:
    table = mismatch({"pre-ln": [3.0, 2.5, 3.5], "normformer": [2.0, 0.25, 1.5]})
    found = remaining_mismatch(table, "normformer", "pre-ln", "fc2")
    same_logs(found, [2 / 3, 4 / 2.5, 1.5 / 3.5])
    table.loc[(table["arch"] == "pre-ln") & (table["seed"] == 0), "ratio"] = math.inf
    found = remaining_mismatch(table, "normformer", "pre-ln", "fc2")
    same_logs(found, [4 / 2.5, 1.5 / 3.5])


def relative(n_layers: int = 5, seeds: int = 3) -> pd.DataFrame:
    """ratio = f(op) · 2^layer · 3^seed, in the late window; the early one is 100 times that."""
    factors = {"q": 1.0, "k": 4.0, "fc1": 0.25, "fc2": 1.0}
    return pd.DataFrame(
        [
            {
                "arch": arch,
                "seed": seed,
                "window": window,
                "n_layers": n_layers,
                "op": op,
                "layer": layer,
                "ratio": size * factor * 2.0**layer * 3.0**seed,
            }
            for arch, own in (("normformer", 1.0), ("post-ln", 7.0))
            for window, size in (("late", own), ("early", 100.0))
            for seed in range(seeds)
            for op, factor in factors.items()
            for layer in range(n_layers)
        ]
    )


def test_relative_gradients_are_geometric_means_over_ops_and_layers() -> None:
    table = relative()
    ops = ("fc1", "fc2")  # their geometric mean is 1 / 2
    for end, layers in ((None, 2.0), ("early", 0.5), ("late", 3.5)):
        found = relative_gradient(table, "normformer", ops, end)
        same_logs(found, [0.5 * 2.0**layers * 3.0**seed for seed in range(3)])
    # Of three layers, one at each end.
    found = relative_gradient(relative(3), "normformer", ("q",), "late")
    same_logs(found, [4.0 * 3.0**seed for seed in range(3)])
    # A missing ratio leaves its cell out, not its seed.
    table.loc[(table["op"] == "q") & (table["layer"] == 1), "ratio"] = math.nan
    found = relative_gradient(table, "normformer", ("q",), "early")
    same_logs(found, [3.0**seed for seed in range(3)])
    nothing(relative_gradient(table, "normformer", ("v",), "late"))


def test_the_largest_layer_is_that_of_the_largest_mean() -> None:
    table = relative()
    same_logs(
        largest_relative_gradient(table, "normformer", ("q", "k")),
        [2.0 * 2.0**4 * 3.0**seed for seed in range(3)],
    )
    # One seed's largest cell is not the largest of the mean.
    table.loc[(table["layer"] == 0) & (table["seed"] == 0), "ratio"] = 100.0
    assert largest_relative_gradient(table, "normformer", ("q", "k")).number == pytest.approx(96)
    nothing(largest_relative_gradient(table, "normformer", ("v",)))


def scales(of: dict[tuple[int, int], list[float]], op: str = "head_scale") -> pd.DataFrame:
    """Entries by (seed, layer), and others of another architecture and op."""
    rows = [
        {"arch": "normformer", "seed": seed, "op": op, "layer": layer, "value": value}
        for (seed, layer), values in of.items()
        for value in values
    ]
    other = {"arch": "pre-ln", "seed": 0, "op": op, "layer": 0, "value": 99.0}
    return pd.DataFrame([*rows, other, {**other, "arch": "normformer", "op": "attn_norm"}])


RNG = np.random.default_rng(0)
ENTRIES = {
    (seed, layer): (1 + (0.02 + 0.01 * seed) * layer + 0.01 * RNG.normal(size=4)).tolist()
    for seed in range(3)
    for layer in range(6)
}


def test_slopes_means_and_correlations_of_scales() -> None:
    table = scales(ENTRIES)
    means = np.array([[np.mean(ENTRIES[seed, layer]) for layer in range(6)] for seed in range(3)])
    depth = np.arange(6) / 5
    centred = depth - depth.mean()
    slopes = (means - means.mean(1, keepdims=True)) @ centred / (centred @ centred)
    same(scale_slope(table, "normformer", "head_scale"), slopes.tolist())
    same(scale_mean(table, "normformer", "head_scale"), means.mean(1).tolist())
    same(largest_scale_mean(table, "normformer", "head_scale"), means[:, 5].tolist())
    correlations = [
        np.corrcoef(
            [layer for layer in range(6) for _ in range(4)],
            [value for layer in range(6) for value in ENTRIES[seed, layer]],
        )[0, 1]
        for seed in range(3)
    ]
    same(scale_correlation(table, "normformer", "head_scale"), correlations)


def test_scales_of_one_layer_or_of_one_value_have_no_relation() -> None:
    one_layer = scales({(seed, 0): [1.0, 2.0] for seed in range(3)})
    nothing(scale_slope(one_layer, "normformer", "head_scale"))
    nothing(scale_correlation(one_layer, "normformer", "head_scale"))
    untouched = scales({(seed, layer): [1.0] for seed in range(3) for layer in range(3)})
    nothing(scale_correlation(untouched, "normformer", "head_scale"))
    same(scale_slope(untouched, "normformer", "head_scale"), [0, 0, 0])
    nothing(largest_scale_mean(untouched, "normformer", "lambda_resid"))


def stability(lrs: dict[str, list[float]], reason: str = "loss_nonfinite") -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "size": "nano",
                "params": 100,
                "arch": arch,
                "seed": seed,
                "lr_step": 2e-4,
                "reason": "completed" if lr is None else reason,
                "step": 5,
                "lr": 1.0 if lr is None else lr,
                "censored": lr is None,
                "first_overflow": None,
                "lr_min_loss": 0.01,
                "lr_collapse": None,
            }
            for arch, seeds in lrs.items()
            for seed, lr in enumerate(seeds)
        ]
    )


def test_breaks_are_compared_over_pairs_without_a_bound() -> None:
    table = stability({"pre-ln": [0.1, 0.2, 0.3], "normformer": [0.2, 0.3, None, 0.5]})
    same_logs(break_ratio(table, "normformer", "pre-ln"), [2.0, 1.5])
    nothing(break_ratio(table, "normformer-resscale", "normformer"))
    turned = table.iloc[::-1].reset_index(drop=True)
    assert break_ratio(turned, "normformer", "pre-ln") == break_ratio(table, "normformer", "pre-ln")


def losses(of: dict[str, list[float]]) -> pd.DataFrame:
    rows = [
        ["nano", arch, seed, 3e-3, 500, "completed", 5.6, loss, 9.0]
        for arch, seeds in of.items()
        for seed, loss in enumerate(seeds)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def test_perplexities_are_compared_seed_by_seed() -> None:
    table = losses({"normformer-resscale": [2.0, 2.5, 2.1], "pre-ln": [2.1, 2.7, 2.15]})
    same_logs(perplexity_ratio(table, "normformer-resscale", "pre-ln"), np.exp([-0.1, -0.2, -0.05]))
    same_logs(perplexity_ratio(table, "pre-ln", "normformer-resscale"), np.exp([0.1, 0.2, 0.05]))
    nothing(perplexity_ratio(table, "normformer", "pre-ln"))
    apart = losses({"normformer-resscale": [900.0, 1.0], "pre-ln": [1.0, 90.0]})
    assert perplexity_ratio(apart, "normformer-resscale", "pre-ln").high == math.inf


def curves(of: dict[str, list[list[float]]]) -> pd.DataFrame:
    """A perplexity every 10 seconds, by architecture and seed."""
    return pd.DataFrame(
        [
            {"size": "nano", "arch": arch, "seed": seed, "seconds": 10.0 * (place + 1)}
            | {"perplexity": perplexity, "flops": 1.0, "tokens": 1.0}
            for arch, seeds in of.items()
            for seed, line in enumerate(seeds)
            for place, perplexity in enumerate(line)
        ]
    )


def test_the_share_saved_is_in_seconds_and_speaks_for_every_seed() -> None:
    theirs = [[9.0, 7.0, 6.0, 5.0, 5.5]] * 3
    mine = [[8.0, 4.0, 4.0, 4.0], [8.0, 6.0, 5.0, 5.0], [8.0, 6.0, 6.0, 4.0]]
    found = share_saved(curves({"pre-ln": theirs, "normformer": mine}), "normformer", "pre-ln")
    left, most, least = geometric_interval([20 / 40, 30 / 40, 40 / 40])
    assert (found.number, found.low, found.high) == pytest.approx((1 - left, 1 - least, 1 - most))
    assert found.seeds == 3
    mine[1] = [8.0, 6.0, 5.1, 5.1]
    found = share_saved(curves({"pre-ln": theirs, "normformer": mine}), "normformer", "pre-ln")
    assert math.isnan(found.number)
    assert found.seeds == 2
    nothing(share_saved(curves({"normformer": mine}), "normformer", "pre-ln"))
    nothing(share_saved(curves({"pre-ln": mine}), "normformer", "pre-ln"))
