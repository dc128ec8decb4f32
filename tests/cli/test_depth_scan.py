"""`gradlab depth-scan`, small."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib import pyplot as plt
from typer.testing import CliRunner, Result

import gradlab
from gradlab.analyses.depth_scan import COLUMNS, depth_scan, depth_sentences
from gradlab.cli.main import app
from gradlab.figures.depth_scan import trained_depths
from gradlab.models.build import build_model
from gradlab.runs.csv_files import read_csv
from gradlab.runs.reader import load
from gradlab.studies import DepthScan
from gradlab.studies.step_memory import step_bytes

pytestmark = pytest.mark.usefixtures("unrendered")

SMALL = ("--width", "16", "--max-seq-len", "8", "--batch-size", "2", "--device", "cpu")


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["depth-scan", *SMALL, *arguments])


def made_up(*rows: tuple[str, int, int, int, bool]) -> pd.DataFrame:
    """(arch, depth, warmup, seed, trains)."""
    table = pd.DataFrame(rows, columns=["arch", "depth", "warmup", "seed", "trains"])
    return table.reindex(columns=COLUMNS).assign(reason="completed", step=9)


def test_the_default_scan() -> None:
    configs = DepthScan().configs()
    found = {(c.arch, c.model.n_layers, c.schedule.warmup_steps) for c in configs}
    archs = ("post-ln", "pre-ln", "deepnorm", "normformer")
    assert found == {(a, d, w) for a in archs for d in (2, 6, 12, 24, 50, 100) for w in (0, 50)}
    assert {config.model.d_model for config in configs} == {32}
    assert len({config.row for config in configs}) == len(configs)


def test_trained_small(tmp_path: Path, text: str, trained_here: None) -> None:
    out = tmp_path / "study"
    archs = ("--arch", "pre-ln", "--arch", "post-ln")
    options = ("--depth", "1", "--depth", "3", "--warmup", "0", "--steps", "12", "--lr", "1e-2")
    result = invoke("--corpus", text, "--out", str(out), *archs, *options)
    assert result.exit_code == 0, result.output
    table = read_csv(out / "depths.csv")
    assert len(table) == 4
    for _, row in table.iterrows():
        run = load(out / f"nano-d16_{row['arch']}_{row['depth']}-layers-warmup0_constant0.01_seed0")
        grads = run.table("grad_norms")
        assert sorted(set(grads["step"])) == [0, 11]
        weights = grads[grads["layer"].eq(0) & ~grads["param"].str.endswith("bias")]
        start = weights[weights["step"] == 0]
        assert row["first_start"] == pytest.approx(start["grad_l1"].sum() / start["numel"].sum())
        assert row["loss"] == run.table("steps")["loss"].iloc[-1]
        assert row["trains"] == (row["loss"] < row["entropy"])
        hidden = run.table("hidden")
        last = hidden[(hidden["step"] == 11) & (hidden["layer"] == row["depth"] - 1)]
        assert row["cosine"] == pytest.approx(last["cosine"].item())
        assert row["bytes"] == step_bytes(run.config)
    assert (out / "trained_depths.png").exists()
    assert (out / "gradients_by_depth.png").exists()
    assert len(gradlab.inspect(out).sentences) == 2
    again = invoke("--corpus", text, "--out", str(out), *archs, *options, "--resume")
    assert again.exit_code == 0, again.output
    pd.testing.assert_frame_equal(read_csv(out / "depths.csv"), table)


def test_the_highest_stable_rate(tmp_path: Path, text: str, trained_here: None) -> None:
    fields: dict[str, Any] = {"width": 16, "max_seq_len": 8, "batch_size": 2, "device": "cpu"}
    fields |= {"arch": "post-ln", "depth": 1, "warmup": 0, "steps": 12, "corpus": text}
    study = DepthScan(stable=True, lowest=1e-3, highest=1e3, factor=1e2, **fields)
    record = gradlab.run_study(study, tmp_path / "s", jobs=1)
    (row,) = depth_scan(record).itertuples()
    assert row.stable_low in study.rates().all
    assert row.stable_high is None or row.stable_high > row.stable_low


def test_memory_is_what_autograd_keeps() -> None:
    """Against all layers, counted on numbers."""
    import torch
    from torch.autograd.graph import saved_tensors_hooks

    shape: dict[str, Any] = {"width": 16, "max_seq_len": 8}
    study = DepthScan(arch="normformer", depth=4, warmup=0, **shape)
    (config,) = study.configs()
    model = build_model(config.model, seed=0)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage()
        return x

    tokens = torch.zeros(config.batch_size, 8, dtype=torch.int64)
    with saved_tensors_hooks(keep, lambda x: x):
        loss = torch.nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())
    counted = sum(storage.nbytes() for at, storage in kept.items() if at not in own)
    loss.backward()
    expected = counted + 16 * sum(p.numel() for p in model.parameters())
    assert step_bytes(config) == pytest.approx(expected, rel=0.02)


def test_sentences() -> None:
    table = made_up(
        *(("pre-ln", depth, 0, 0, True) for depth in (2, 6, 100)),
        *(("post-ln", depth, 0, 0, depth < 6) for depth in (2, 6, 100)),
        *(("post-ln", 2, 50, seed, seed == 0) for seed in (0, 1)),
        ("deepnorm", 2, 0, 0, False),
    )
    sentences = depth_sentences(table)
    assert len(sentences) == 4
    pre, post, warm, deep = sentences
    assert "every depth" in pre
    assert "100" in pre
    assert "2 layers" in post
    assert "6, 100 layers" in post
    assert "some seeds" in warm
    assert "50 steps" in warm
    assert "not" in deep


def test_where_each_stops() -> None:
    table = made_up(
        ("pre-ln", 2, 0, 0, True), ("pre-ln", 6, 0, 0, False), ("post-ln", 2, 50, 0, True)
    )
    ax = trained_depths(table)
    points = {(float(line.get_xdata()[0]), float(line.get_ydata()[0])): line for line in ax.lines}
    assert set(points) == {(2.0, 0.0), (6.0, 0.0), (2.0, 1.0)}
    assert points[6.0, 0.0].get_marker() == "x"
    assert points[2.0, 0.0].get_marker() != "x"
    plt.close("all")
