import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner, Result

import gradlab
from gradlab.cli.main import app
from gradlab.config import OptimizerConfig, RecordConfig, RunConfig, ScheduleConfig
from gradlab.models.presets import model_config
from gradlab.runs.csv_files import read_csv
from gradlab.runs.reader import load
from gradlab.studies import LrSearch

pytestmark = pytest.mark.usefixtures("unrendered")

SMALL = [
    *("lr-search", "--device", "cpu", "--size", "nano", "--width", "16", "--n-layers", "2"),
    *("--max-seq-len", "8", "--batch-size", "2", "--jobs", "2", "--steps", "6", "--warmup", "2"),
]
RATES = ("--lr", "4e-3", "--lr", "1e-3", "--lr", "2e-3")
# Loss at 1e-3, 2e-3, 4e-3; None breaks.
CURVES = {"pre-ln": (3.0, 2.5, None), "normformer": (3.0, 2.6, 2.4)}


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, [*SMALL, *arguments])


def curve(config: RunConfig) -> float | None:
    loss = CURVES[config.arch][(1e-3, 2e-3, 4e-3).index(config.schedule.lr)]
    return None if loss is None else loss + 0.1 * config.seed


def lines_of(result: Result) -> list[str]:
    return [" ".join(line.split()) for line in result.stdout.splitlines()]


def test_the_default_search() -> None:
    configs = LrSearch().configs()
    rates = [1e-3, 2e-3, 4e-3, 8e-3, 0.016, 0.032, 0.064, 0.128]
    assert [(config.seed, config.schedule.lr, config.arch) for config in configs] == [
        (seed, lr, arch) for seed in range(3) for lr in rates for arch in ("pre-ln", "normformer")
    ]
    for config in configs:
        assert config == RunConfig(
            arch=config.arch,
            size="nano",
            model=model_config(config.arch, "nano"),
            schedule=ScheduleConfig(kind="linear", lr=config.schedule.lr, warmup_steps=30),
            steps=300,
            seed=config.seed,
            optimizer=OptimizerConfig(),
            record=RecordConfig(probes=()),
            val_every=300,
            val_batches=64,
        )


def test_a_search_can_validate_on_the_way() -> None:
    configs = LrSearch(val_every=50, seeds=1).configs()
    assert {config.val_every for config in configs} == {50}


def test_the_rows_of_table_4_are_architectures_too() -> None:
    (config,) = LrSearch(arch=["minus-ffn-ln"] * 2, lr=[1e-3] * 2, seeds=1).configs()
    assert config.arch == "minus-ffn-ln"
    assert not config.model.ffn_mid_norm
    assert config.model.res_scale == "ffn"


@pytest.mark.long
def test_the_tables_the_sentences_and_the_files(
    tmp_path: Path, text: str, fake_jobs: Callable[..., None]
) -> None:
    fake_jobs(curve)
    out = tmp_path / "study"
    result = invoke("--corpus", text, "--out", str(out), *RATES)
    assert result.exit_code == 0, result.output
    lines = lines_of(result)
    for line in (
        "0.001 3.100 (3.000 to 3.200) 3.100 (3.000 to 3.200)",
        "0.004 5.500 (5.500 to 5.500), 3 diverged 2.500 (2.400 to 2.600)",
        # ((3.0 − 2.5) + 0 + (5.5 − 2.5 − seed / 10)) / 3; t = 4.303 for 3 seeds
        "pre-ln 3 0.002 2.600 (2.352 to 2.848) 1.133 (1.051 to 1.216)",
        "normformer 3 0.004 2.500 (2.252 to 2.748) 0.267 (0.267 to 0.267)",
        "normformer's loss at its best learning rate is 0.100 nats lower than pre-ln's (95 % "
        "interval −0.100 to −0.100, 3 seeds).",
        "normformer's LR sensitivity is 0.867 nats lower than pre-ln's (95 % interval −0.949 to "
        "−0.784, 3 seeds).",
        "normformer's best learning rate is the highest that was tried: a better one may lie "
        "beyond it (--lr).",
    ):
        assert line in lines
    losses = pd.read_csv(out / "losses.csv")
    assert len(losses) == 18
    assert set(losses["first_loss"]) == {5.5}
    summary = pd.read_csv(out / "summary.csv").set_index("arch")
    assert summary["best_lr"].to_dict() == {"pre-ln": 2e-3, "normformer": 4e-3}
    names = {"losses", "rates", "seeds", "summary", "differences", "runs"}
    assert {file.stem for file in out.glob("*.csv")} == names
    for form in ("png", "pdf"):
        assert (out / f"loss_by_rate.{form}").exists()
    (ax,) = gradlab.draw(out)["loss_by_rate"].axes
    crosses = [line for line in ax.lines if line.get_marker() == "x"]
    assert sum(len(line.get_xdata()) for line in crosses) == 3  # runs that diverged are in it


def test_an_interrupted_search_shows_what_it_has(
    tmp_path: Path, text: str, fake_jobs: Callable[..., None]
) -> None:
    fake_jobs(curve, until=7)  # all of seed 0, and one run of seed 1
    out = tmp_path / "a study"
    asked = ("--corpus", text, "--out", str(out), *RATES, "--seeds", "2")
    result = invoke(*asked)
    assert result.exit_code == 130
    lines = lines_of(result)
    assert "0.001 3.050 (3.000 to 3.100) 3.000, 1 of 2" in lines
    assert "pre-ln 1 of 2 0.002 2.500 1.167" in lines
    assert any("on the one seed of both: not distinguished." in line for line in lines)
    assert not list(out.glob("*.png"))
    fake_jobs(curve)
    (command,) = re.findall("`gradlab (.*)`", result.stderr)
    assert "--jobs 2" in command
    assert f"by `gradlab {command.replace(' --jobs 2', '')}`" in invoke(*asked).stderr
    resumed = CliRunner().invoke(app, shlex.split(command))
    assert resumed.exit_code == 0, resumed.output
    assert (out / "loss_by_rate.png").exists()


def test_an_architecture_that_always_diverges(
    tmp_path: Path, text: str, fake_jobs: Callable[..., None]
) -> None:
    fake_jobs(lambda config: None if config.arch == "pre-ln" else curve(config))
    result = invoke("--corpus", text, "--out", str(tmp_path / "study"), *RATES, "--seeds", "1")
    assert result.exit_code == 0, result.output
    lines = lines_of(result)
    assert "pre-ln 0 of 1 – – –" in lines
    assert any("LR sensitivity cannot be compared with pre-ln's" in line for line in lines)


def test_a_search_without_an_ended_run_says_so(
    tmp_path: Path, text: str, fake_jobs: Callable[..., None]
) -> None:
    fake_jobs(curve, until=0)
    result = invoke("--corpus", text, "--out", str(tmp_path / "study"), *RATES)
    assert result.exit_code == 130
    assert "has ended: there is nothing to compare." in result.stdout


@pytest.mark.long
def test_a_search_from_the_command_to_the_figure(tmp_path: Path, text: str) -> None:
    out = tmp_path / "study"
    rates = ("--lr", "1e-2", "--lr", "100", "--arch", "pre-ln", "--seeds", "1")
    result = invoke("--corpus", text, "--out", str(out), *rates)
    assert result.exit_code == 0, result.output
    losses = read_csv(out / "losses.csv").set_index("lr")
    steps = load(out / "nano-d16_pre-ln_linear0.01_seed0").table("steps")
    assert losses.loc[0.01, "first_loss"] == steps["loss"].iloc[0]
    assert losses.loc[0.01, "val_loss"] == steps["val_loss"].iloc[-1]
    assert losses.loc[100, "reason"] != "completed"
    (seed,) = read_csv(out / "seeds.csv").to_dict("records")
    entered = [losses.loc[0.01, "val_loss"], losses.loc[100, "first_loss"]]
    assert seed["sensitivity"] == pytest.approx((entered[1] - entered[0]) / 2)
    assert (out / "loss_by_rate.pdf").exists()
