import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from by_hand import geometric_interval, interval
from made_up_runs import nano, write_rows

from gradlab.analyses import gradient_study as module
from gradlab.analyses.gradient_study import (
    mismatch_differences,
    run_windows,
    study_gradients,
    study_mismatch,
    summarise_mismatch,
)
from gradlab.analyses.gradients import gradients_by_layer, mismatch
from gradlab.config import DataConfig, OptimizerConfig, PrecisionConfig, RunConfig, ScheduleConfig
from gradlab.errors import GradlabError
from gradlab.models.presets import model_config
from gradlab.runs.memory import MemoryWriter
from gradlab.runs.reader import Run
from gradlab.runs.verdict import Verdict

LAYERS = 6
SCHEDULE = ScheduleConfig(lr=1e-3, warmup_steps=2)


def config(arch: str, seed: int = 0, **fields: Any) -> RunConfig:
    return nano(arch, seed, **{"schedule": SCHEDULE, "steps": 12, **fields})


def recorded(
    config: RunConfig, falls: float, *, sha256: str = "a", ops: tuple[str, ...] = ("fc1", "fc2"),
    **verdict: Any,
) -> Run:  # fmt: skip
    """A run whose gradients fall by e^-falls over the depth, twice that in the last five steps."""
    writer = MemoryWriter(config, {"corpus": {"name": "x", "sha256": sha256}})
    rng = np.random.default_rng(config.seed)
    rows = [
        (step, f"blocks.{layer}.feed_forward.{op}.weight", layer, op)
        for step in range(config.steps)
        for layer in range(LAYERS)
        for op in ops
    ]
    step, param, layer, op = (list(column) for column in zip(*rows, strict=True))
    depth = np.array(layer) / (LAYERS - 1)
    late = np.where(np.array(step) >= 7, 2.0, 1.0)
    l1 = np.exp(-falls * late * depth) * rng.lognormal(sigma=0.05, size=len(rows))
    write_rows(writer, "grad_norms", step=step, param=param, layer=layer, op=op, grad_l1=l1)
    writer.finish("finished", Verdict(**{"reason": "completed", "step": 11, **verdict}))
    return writer.run()


FALLS = {"post-ln": -0.5, "pre-ln": 1.2}


def study() -> list[Run]:
    return [
        recorded(config(arch, seed), falls + 0.03 * seed)
        for seed in range(3)
        for arch, falls in FALLS.items()
    ]


def mismatches() -> pd.DataFrame:
    return study_mismatch(study_gradients(study(), length=5))


def test_every_run_and_window_is_that_of_its_own_table() -> None:
    found = mismatches().set_index(["arch", "seed", "window", "op"])
    assert len(found) == 2 * 3 * 2 * 2
    for run in study():
        for window, (first, last) in {"early": (2, 6), "late": (7, 11)}.items():
            own = mismatch(run.table("grad_norms"), first=first, last=last).set_index("op")
            for op in ("fc1", "fc2"):
                row = found.loc[(run.config.arch, run.config.seed, window, op)]
                assert row[["ratio", "slope"]].tolist() == own.loc[op, ["ratio", "slope"]].tolist()


def test_the_layers_say_which_steps_they_average() -> None:
    layers = study_gradients(study(), length=5)
    steps = layers.drop_duplicates("window")[["window", "first", "last", "steps"]]
    assert steps.to_numpy().tolist() == [["early", 2, 6, 5], ["late", 7, 11, 5]]
    assert (layers["n_layers"] == LAYERS).all()
    assert len(layers) == 2 * 3 * 2 * 2 * LAYERS


def test_a_summary_has_geometric_means_ranges_and_intervals() -> None:
    table = mismatches()
    summary = summarise_mismatch(table).set_index(["op", "window", "arch"])
    assert len(summary) == 2 * 2 * 2
    for key, row in summary.iterrows():
        runs = table[(table[["op", "window", "arch"]] == list(key)).all(axis=1)]
        assert row["runs"] == 3
        assert (row["ratio_min"], row["ratio_max"]) == pytest.approx(
            (min(runs["ratio"]), max(runs["ratio"]))
        )
        for name, of in (("ratio", geometric_interval), ("slope", interval)):
            found = tuple(row[[name, f"{name}_low", f"{name}_high"]])
            assert found == pytest.approx(of(runs[name]))
    assert summary.loc[("fc2", "late", "post-ln"), "ratio"] < 1
    assert summary.loc[("fc2", "late", "pre-ln"), "slope"] == pytest.approx(-2.46, abs=0.1)


def test_differences_are_over_pairs_of_seeds() -> None:
    table = mismatches()
    found = mismatch_differences(table).set_index(["op", "window"])
    assert len(found) == 4
    row = found.loc[("fc2", "late")]
    here = table[(table["op"] == "fc2") & (table["window"] == "late")]
    ratios = here.set_index(["arch", "seed"])["ratio"]
    pairs = [ratios["pre-ln", seed] / ratios["post-ln", seed] for seed in range(3)]
    assert row[["baseline", "arch", "seeds", "pairs"]].tolist() == ["post-ln", "pre-ln", 3, 3]
    assert tuple(row[["quotient", "low", "high"]]) == pytest.approx(geometric_interval(pairs))
    assert row["distinguished"]


def test_one_seed_has_no_interval() -> None:
    table = mismatches()
    one = table[table["seed"] == 0]
    summary = summarise_mismatch(one)
    assert (summary["runs"] == 1).all()
    np.testing.assert_allclose(summary["ratio"], summary["ratio_min"])
    assert summary[["ratio_low", "ratio_high", "slope_low", "slope_high"]].isna().all(axis=None)
    differences = mismatch_differences(one)
    assert (differences["pairs"] == 1).all()
    assert not differences["distinguished"].any()


def test_equal_architectures_are_not_distinguished() -> None:
    runs = [recorded(config(a, s), 1 + 0.2 * s * (a == "pre-ln")) for s in range(3) for a in FALLS]
    differences = mismatch_differences(study_mismatch(study_gradients(runs, length=5)))
    assert not differences["distinguished"].any()


def test_an_op_of_one_architecture_has_no_difference() -> None:
    runs = [recorded(config("pre-ln"), 1.0), recorded(config("post-ln"), 1.0, ops=("fc2",))]
    table = study_mismatch(study_gradients(runs, length=5))
    assert mismatch_differences(table)["op"].tolist() == ["fc2", "fc2"]
    assert len(summarise_mismatch(table)) == 6


def test_a_ratio_without_a_logarithm_is_not_counted() -> None:
    table = mismatches()
    table.loc[(table["arch"] == "pre-ln") & (table["seed"] == 1), "ratio"] = 0.0
    table.loc[(table["arch"] == "pre-ln") & (table["seed"] == 2), "ratio"] = math.inf
    summary = summarise_mismatch(table).set_index("arch")
    assert set(summary.loc["pre-ln", "runs"]) == {1}
    assert np.isfinite(summary.loc["pre-ln", "ratio"]).all()
    differences = mismatch_differences(table)
    assert set(differences["pairs"]) == {1}
    assert set(differences["seeds"]) == {3}


def test_runs_that_did_not_reach_their_end_are_left_out() -> None:
    broken = recorded(config("pre-ln", 3), 1.0, reason="loss_rise", step=9)
    layers = study_gradients([*study(), broken], length=5)
    assert sorted(layers["seed"].unique()) == [0, 1, 2]
    with pytest.raises(GradlabError, match="no run reached its last step"):
        study_gradients([broken], length=5)


OTHER = {
    "corpora": recorded(config("pre-ln"), 1.0, sha256="b"),
    "sizes": recorded(config("pre-ln", model=model_config("pre-ln", "nano", d_ff=100)), 1.0),
    "attention paths": recorded(
        config("pre-ln", model=model_config("pre-ln", "nano", attention="sdpa")), 1.0
    ),
    "precisions": recorded(config("pre-ln", precision=PrecisionConfig(name="bf16")), 1.0),
    "batches": recorded(config("pre-ln", batch_size=9), 1.0),
    "schedules": recorded(config("pre-ln", schedule=ScheduleConfig(lr=2e-3)), 1.0),
    "optimizers": recorded(config("pre-ln", optimizer=OptimizerConfig(beta2=0.9)), 1.0),
}


@pytest.mark.parametrize("word", OTHER)
def test_runs_that_do_not_compare_are_refused(word: str) -> None:
    first = recorded(config("post-ln"), 1.0)
    with pytest.raises(GradlabError, match=f"do not compare: their {word} differ"):
        study_gradients([first, OTHER[word]], length=5)


def test_where_the_text_lies_does_not_matter() -> None:
    moved = config("pre-ln", data=DataConfig(corpus="elsewhere.txt"), device="cpu")
    study_gradients([recorded(config("post-ln"), 1.0), recorded(moved, 1.0)], length=5)


def test_two_runs_of_one_kind_are_refused() -> None:
    with pytest.raises(GradlabError, match="are both pre-ln with seed 0: give one of them"):
        study_gradients([recorded(config("pre-ln"), 1.0), recorded(config("pre-ln"), 2.0)])


def test_a_run_without_the_table_is_refused() -> None:
    writer = MemoryWriter(config("pre-ln"), {"corpus": {"name": "x", "sha256": "a"}})
    writer.finish("finished", Verdict(reason="completed", step=11))
    with pytest.raises(GradlabError, match="did not record grad_norms"):
        study_gradients([writer.run()], length=5)


def attached(steps: range, broken: range = range(0), param: str = "h.0.fc2.weight") -> Run:
    """A loop of one's own: gradients equal to the step, of two layers; some steps not finite."""
    writer = MemoryWriter(None, {"model": "GPT2", "tables": ["steps", "grad_norms"]})
    rows = [(step, f"h.{layer}.fc2.weight", layer) for step in steps for layer in range(2)]
    step, names, layer = (list(column) for column in zip(*rows, strict=True))
    bad = [int(s in broken and (param in (n, "*"))) for s, n, _ in rows]
    size = [float(number) for number in step]
    where = {"step": step, "param": names, "layer": layer}
    write_rows(writer, "grad_norms", **where, nonfinite=bad, grad_l1=size, grad_l2=size)
    return writer.run()


def windows(*runs: Run, length: int = 10) -> dict[str, tuple[int, int]]:
    found = run_windows(runs, length)
    return {name: (window.first, window.last) for name, window in found.items()}


def test_a_loop_of_ones_own_has_windows_at_the_ends_of_what_was_finite() -> None:
    assert windows(attached(range(100))) == {"early": (0, 9), "late": (90, 99)}
    assert windows(attached(range(100), range(70, 100), "*")) == {"early": (0, 9), "late": (60, 69)}
    # One layer's gradient that is never finite does not take the others' with it.
    assert windows(attached(range(100), range(100))) == {"early": (0, 9), "late": (90, 99)}
    assert windows(attached(range(0, 100, 10)), length=50) == {"early": (0, 44), "late": (46, 90)}
    assert windows(attached(range(5, 6))) == {"early": (5, 5)}
    with pytest.raises(GradlabError, match="no gradient that was finite"):
        windows(attached(range(9), range(9), "*"))
    with pytest.raises(GradlabError, match="holds nothing"):
        windows(attached(range(9)), length=0)


def test_loops_of_ones_own_are_averaged_over_the_same_steps() -> None:
    runs = [attached(range(100)), attached(range(20, 60))]
    table = study_gradients(runs, length=10)
    assert set(table["arch"]) == {"GPT2", "GPT2 #2"}
    early = table[table["window"] == "early"]
    assert set(early["first"]) == {20}
    assert early["grad_l1"].tolist() == [24.5] * 4
    assert set(table["n_layers"]) == {2}
    with pytest.raises(GradlabError, match="no step in common"):
        study_gradients([attached(range(10)), attached(range(20, 30))])


def test_rows_are_averaged_once_whoever_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    averaged = []

    def counted(rows: pd.DataFrame, **window: int) -> pd.DataFrame:
        averaged.append(tuple(window.values()))
        return gradients_by_layer(rows, **window)

    monkeypatch.setattr(module, "gradients_by_layer", counted)
    monkeypatch.setattr(module, "_known", {})
    runs = study()
    first = study_gradients(runs, length=5)
    once = len(averaged)
    assert once == 2 * len(runs)
    pd.testing.assert_frame_equal(study_gradients(study(), length=5), first)
    assert len(averaged) == once, "in other objects, the rows are the same"
    assert not study_gradients(runs, length=4).equals(first)
    assert len(averaged) == 2 * once
    first["grad_l1"] = 0.0  # a caller's own
    assert study_gradients(runs, length=5)["grad_l1"].gt(0).any()
