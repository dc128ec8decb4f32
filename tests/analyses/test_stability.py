import itertools
import math
import statistics
from typing import Any

import pandas as pd
import pytest
from by_hand import geometric_interval
from hypothesis import given, settings
from hypothesis import strategies as st

from gradlab.analyses.stability import (
    first_overflow_sites,
    paired_differences,
    summarise_stability,
)
from gradlab.analyses.stability_table import COLUMNS

PARAMS = {"pre-ln": 314_880, "normformer": 318_744, "normformer-resscale": 319_128}


def run(arch: str, seed: int, lr: float | None, **fields: Any) -> dict[str, Any]:
    reason = fields.get("reason", "loss_nonfinite")
    row = {
        "size": "nano",
        "params": PARAMS[arch],
        "arch": arch,
        "seed": seed,
        "lr_step": 2e-4,
        "reason": reason,
        "step": None if lr is None else round(lr / 2e-4),
        "lr": lr,
        "censored": reason == "completed",
        "first_overflow": "blocks.0.attention.scores" if reason == "loss_nonfinite" else None,
        "lr_min_loss": None if lr is None else lr / 3,
        "lr_collapse": None if lr is None else lr / 2,
    }
    return {**row, **fields}


def table(*rows: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(COLUMNS))


BREAKS = {"pre-ln": [0.141, 0.139, 0.150], "normformer": [0.113, 0.129, 0.117]}


def study() -> pd.DataFrame:
    return table(*(run(a, seed, lr) for a, lrs in BREAKS.items() for seed, lr in enumerate(lrs)))


def test_median_and_range_are_those_of_the_breaks() -> None:
    summary = summarise_stability(study()).set_index("arch")
    for arch, lrs in BREAKS.items():
        row = summary.loc[arch]
        assert row["lr_median"] == statistics.median(lrs)
        assert (row["lr_low"], row["lr_high"]) == (min(lrs), max(lrs))
        assert row["lr_min_loss_median"] == statistics.median(lr / 3 for lr in lrs)
        assert row["lr_collapse_high"] == max(lrs) / 2
        assert row[["runs", "broke", "censored", "failed", "interrupted"]].tolist() == [
            3,
            3,
            0,
            0,
            0,
        ]
        assert not row["lr_median_bound"]
        assert not row["lr_high_bound"]
        assert row["params"] == PARAMS[arch]


def test_failed_and_interrupted_runs_are_counted_and_left_out() -> None:
    rows = [
        run("pre-ln", 0, 0.1),
        run("pre-ln", 1, 0.01, reason="interrupted"),
        run("pre-ln", 2, None, reason="error"),
    ]
    row = summarise_stability(table(*rows)).iloc[0]
    assert (row["runs"], row["failed"], row["interrupted"]) == (1, 1, 1)
    assert row["lr_median"] == row["lr_low"] == 0.1


def test_a_group_of_failures_has_counts_and_no_figures() -> None:
    row = summarise_stability(table(run("pre-ln", 0, None, reason="error"))).iloc[0]
    assert (row["runs"], row["failed"], row["lr_runs"]) == (0, 1, 0)
    assert math.isnan(row["lr_median"])
    assert not row["lr_median_bound"]


@pytest.mark.parametrize(
    ("lrs", "censored", "bound"),
    [
        ([0.10, 0.12, 0.80], [2], False),  # the censored run is above the median: it stays
        ([0.10, 0.80, 0.80], [1, 2], True),
        ([0.10, 0.80], [1], True),  # the median is the mean of the two
        ([0.10, 0.11, 0.80, 0.80], [2, 3], True),
        ([0.10, 0.11, 0.12, 0.80], [3], False),
        ([0.80], [0], True),
        ([0.30, 0.05, 0.40], [1], True),  # stopped early: it could have gone past the others
    ],
)
def test_the_median_is_a_bound_where_a_censored_run_could_move_it(
    lrs: list[float], censored: list[int], bound: bool
) -> None:
    rows = [
        run("pre-ln", seed, lr, reason="completed" if seed in censored else "loss_rise")
        for seed, lr in enumerate(lrs)
    ]
    row = summarise_stability(table(*rows)).iloc[0]
    assert row["lr_median"] == pytest.approx(statistics.median(lrs))
    assert row["lr_median_bound"] == bound
    assert row["lr_high_bound"]
    assert row["censored"] == len(censored)


@settings(max_examples=20)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.booleans(), st.integers(0, 9)), min_size=1, max_size=6)
)
def test_no_later_break_of_censored_runs_moves_an_unmarked_median(
    runs: list[tuple[int, bool, int]],
) -> None:
    rows = [
        run("pre-ln", seed, float(lr), reason="completed" if cut else "loss_rise")
        for seed, (lr, cut, _) in enumerate(runs)
    ]
    row = summarise_stability(table(*rows)).iloc[0]
    uncut = statistics.median(lr + (more if cut else 0) for lr, cut, more in runs)
    assert row["lr_median"] <= uncut
    if not row["lr_median_bound"]:
        assert row["lr_median"] == uncut


def test_runs_without_a_collapse_are_left_out_of_its_median() -> None:
    rows = [run("pre-ln", 0, 0.1, lr_collapse=None), run("pre-ln", 1, 0.2), run("pre-ln", 2, 0.3)]
    row = summarise_stability(table(*rows)).iloc[0]
    assert row["lr_collapse_runs"] == 2
    assert row["lr_collapse_median"] == pytest.approx(0.125)


def test_sizes_and_ramps_are_kept_apart() -> None:
    rows = [run("pre-ln", 0, 0.1), run("pre-ln", 0, 0.2, lr_step=5e-5)]
    rows.append(run("pre-ln", 0, 0.3, size="micro", params=2_000_000))
    summary = summarise_stability(table(*rows))
    assert summary["lr_median"].tolist() == [0.1, 0.2, 0.3]
    assert summary["size"].tolist() == ["nano", "nano", "micro"]


def test_an_empty_study_gives_empty_tables() -> None:
    empty = table()
    for made in (
        summarise_stability(empty),
        first_overflow_sites(empty),
        paired_differences(empty),
    ):
        assert made.empty
        assert len(made.columns) > 5
    assert list(summarise_stability(empty).columns) == list(summarise_stability(study()).columns)


def test_the_first_overflow_is_a_distribution_over_breaks() -> None:
    rows = [
        run("pre-ln", 0, 0.1, first_overflow="blocks.1.attention.scores"),
        run("pre-ln", 1, 0.1),
        run("pre-ln", 2, 0.1),
        run("pre-ln", 3, 0.1, reason="loss_rise"),
        run("pre-ln", 4, 0.9, reason="completed"),
        run("pre-ln", 5, None, reason="error"),
    ]
    sites = first_overflow_sites(table(*rows))
    assert sites[["site", "runs", "share"]].to_numpy().tolist() == [
        ["blocks.0.attention.scores", 2, 0.5],
        ["blocks.1.attention.scores", 1, 0.25],
        ["none", 1, 0.25],
    ]


def test_a_difference_is_the_mean_log_ratio_over_seeds() -> None:
    row = paired_differences(study()).iloc[0]
    ratios = [n / p for p, n in zip(*BREAKS.values(), strict=True)]
    assert (row["baseline"], row["arch"]) == ("pre-ln", "normformer")
    assert tuple(row[["ratio", "low", "high"]]) == pytest.approx(geometric_interval(ratios))
    assert row[["seeds", "pairs", "censored", "missing"]].tolist() == [3, 3, 0, 0]
    assert row["distinguished"] == (row["high"] < 1)


def test_seeds_are_paired_by_their_number_not_their_place() -> None:
    shuffled = study().sample(frac=1, random_state=3)
    shuffled = shuffled.sort_values("arch", ascending=False, kind="stable")  # pre-ln stays first
    pd.testing.assert_frame_equal(paired_differences(study()), paired_differences(shuffled))


def test_a_shift_common_to_a_seed_cancels() -> None:
    rows = [
        run(arch, seed, lr * factor)
        for seed, factor in enumerate([0.1, 1.0, 7.0])
        for arch, lr in (("pre-ln", 0.10), ("normformer", 0.11 + seed * 1e-4))
    ]
    row = paired_differences(table(*rows)).iloc[0]
    assert row["distinguished"]
    assert row["ratio"] == pytest.approx(1.101, rel=1e-4)


def test_an_interval_that_includes_no_difference_is_not_distinguished() -> None:
    rows = [run("pre-ln", s, lr) for s, lr in enumerate([0.10, 0.11, 0.12])]
    rows += [run("normformer", s, lr) for s, lr in enumerate([0.11, 0.10, 0.13])]
    row = paired_differences(table(*rows)).iloc[0]
    assert row["low"] < 1 < row["high"]
    assert not row["distinguished"]


def test_one_pair_has_a_ratio_and_no_interval() -> None:
    row = paired_differences(table(run("pre-ln", 0, 0.1), run("normformer", 0, 0.2))).iloc[0]
    assert row["ratio"] == pytest.approx(2.0)
    assert math.isnan(row["low"])
    assert math.isnan(row["high"])
    assert not row["distinguished"]


def test_censored_and_missing_pairs_are_left_out_and_counted() -> None:
    rows = [run("pre-ln", s, 0.1 + s / 100) for s in range(5)]
    rows += [run("normformer", s, 0.2 + s / 100) for s in range(2)]
    rows.append(run("normformer", 2, 0.8, reason="completed"))
    rows.append(run("normformer", 3, None, reason="error"))
    row = paired_differences(table(*rows)).iloc[0]
    assert row[["seeds", "pairs", "censored", "missing"]].tolist() == [5, 2, 1, 2]
    expected = geometric_interval([0.20 / 0.10, 0.21 / 0.11])
    assert tuple(row[["ratio", "low", "high"]]) == pytest.approx(expected)


def test_a_rate_of_zero_makes_no_ratio() -> None:
    rows = [run("pre-ln", s, 0.1, lr_min_loss=0.0 if s == 0 else 0.05) for s in range(2)]
    rows += [run("normformer", s, 0.1) for s in range(2)]
    row = paired_differences(table(*rows), "lr_min_loss").iloc[0]
    assert row[["pairs", "missing"]].tolist() == [1, 1]


def test_no_pairs_at_all() -> None:
    rows = [run("pre-ln", 0, 0.1), run("normformer", 1, 0.2)]
    row = paired_differences(table(*rows)).iloc[0]
    assert row[["seeds", "pairs", "missing"]].tolist() == [2, 0, 2]
    assert math.isnan(row["ratio"])
    assert not row["distinguished"]


def test_every_couple_of_architectures_is_compared_once_per_size_and_ramp() -> None:
    rows = [
        run(arch, seed, 0.1 + seed / 100, size=size, lr_step=lr_step)
        for size, lr_step, arch, seed in itertools.product(
            ["nano", "micro"], [2e-4, 5e-5], PARAMS, range(2)
        )
    ]
    found = paired_differences(table(*rows))
    couples = found.groupby(["size", "lr_step"])[["baseline", "arch"]].apply(
        lambda group: [*map(tuple, group.to_numpy())]
    )
    assert len(found) == 12
    assert all(group == [*itertools.combinations(PARAMS, 2)] for group in couples)
    assert not found["distinguished"].any()


def test_identical_ratios_are_distinguished_only_from_other_ones() -> None:
    rows = [run("pre-ln", s, 0.125 * (s + 1)) for s in range(3)]
    same = rows + [run("normformer", s, 0.125 * (s + 1)) for s in range(3)]
    twice = rows + [run("normformer", s, 0.25 * (s + 1)) for s in range(3)]
    assert not paired_differences(table(*same)).iloc[0]["distinguished"]
    assert paired_differences(table(*twice)).iloc[0]["distinguished"]
