import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from gradlab.cli.main import app
from gradlab.config import OptimizerConfig, RecordConfig, RunConfig, ScheduleConfig
from gradlab.errors import ConfigError
from gradlab.models.presets import TABLE_4, model_config
from gradlab.runs.csv_files import read_csv
from gradlab.runs.reader import load
from gradlab.runs.study import load_study
from gradlab.studies import Ablation
from gradlab.studies import step_times as times_module
from gradlab.studies.equal_time import steps_in_time, with_steps
from gradlab.studies.step_times import StepTime

pytestmark = pytest.mark.usefixtures("unrendered")

SMALL = [
    *("ablate", "--device", "cpu", "--size", "nano", "--width", "16", "--n-layers", "2"),
    *("--max-seq-len", "8", "--batch-size", "2", "--jobs", "1", "--steps", "12", "--warmup", "2"),
]
WORTH = dict(zip(TABLE_4, [0.0, 0.01, 0.05, 0.04, 0.02, -0.01, 0.1], strict=True))
RATIOS = dict(zip(TABLE_4, [1.2, 1.1, 1.0, 1.1, 1.2, 1.5, 1.0], strict=True))
STEPS = {
    "normformer-resscale": 10,
    "minus-post-attn-ln": 11,
    "minus-ffn-ln": 12,
    "minus-head-scale": 11,
    "normformer": 10,
    "plus-3-more-ln": 8,
    "pre-ln": 12,
}


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, [*SMALL, *arguments])


def worth(config: RunConfig) -> float:
    return 2 + WORTH[config.arch] + 0.3 * config.seed


@pytest.fixture(autouse=True)
def timed(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The architectures that were timed, in each call."""
    calls = []

    def step_times(configs: Sequence[RunConfig], **_: Any) -> list[StepTime]:
        calls.append([config.arch for config in configs])
        return [
            StepTime(0.02 * ratio, ratio, 0.9 * ratio, 2.0) for ratio in map(RATIOS.get, calls[-1])
        ]

    monkeypatch.setattr(times_module, "step_times", step_times)
    return calls


def test_the_default_study_is_table_4() -> None:
    configs = Ablation().configs()
    assert [(config.seed, config.arch) for config in configs] == [
        (seed, arch) for seed in range(3) for arch in TABLE_4
    ]
    for config in configs:
        assert config == RunConfig(
            arch=config.arch,
            size="nano",
            model=model_config(config.arch, "nano"),
            schedule=ScheduleConfig(kind="linear", lr=3e-3, warmup_steps=30),
            steps=500,
            seed=config.seed,
            optimizer=OptimizerConfig(),
            record=RecordConfig(probes=()),
            val_every=500,
            val_batches=64,
        )
    assert len({config.model for config in configs}) == 7


def test_the_baseline_is_always_timed_and_each_row_once() -> None:
    options = Ablation(row=["minus-ffn-ln", "normformer-resscale"], seeds=2)
    assert [config.arch for config in options.configs()] == [
        *("normformer-resscale", "minus-ffn-ln") * 2
    ]
    (timed,) = options.timed()
    assert [config.arch for config in timed] == ["pre-ln", "normformer-resscale", "minus-ffn-ln"]
    assert {config.seed for config in timed} == {0}
    (timed,) = Ablation().timed()
    assert [config.arch for config in timed] == ["pre-ln", *list(TABLE_4)[:-1]]


def test_steps_that_fit_in_the_baselines_time() -> None:
    assert {arch: steps_in_time(ratio, 12) for arch, ratio in RATIOS.items()} == STEPS
    assert steps_in_time(90.0, 12) == 1


def test_each_run_takes_its_rows_steps_and_is_validated_after_the_last() -> None:
    configs = Ablation(steps=12, warmup=2).configs()
    for config in with_steps(configs, STEPS):
        assert (config.steps, config.val_every) == (STEPS[config.arch],) * 2
    configs = Ablation(steps=12, warmup=2, val_every=3).configs()
    assert {config.val_every for config in with_steps(configs, STEPS)} == {3}
    with pytest.raises(ConfigError, match="--warmup 2 leaves none of the 2 steps of pre-ln"):
        with_steps(configs, {**STEPS, "pre-ln": 2})


def test_the_table_the_sentence_and_the_files(
    tmp_path: Path, text: str, fake_jobs: Callable[..., None]
) -> None:
    fake_jobs(worth)
    out = tmp_path / "study"
    result = invoke("--corpus", text, "--out", str(out))
    assert result.exit_code == 0, result.output
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "nano-d16, equal time: validation loss after the last step (nats a token)" in lines
    for row in (
        "all operations 10 1.200 × 3 2.300 (2.000 to 2.600) 9.97",
        "− FFN LN 12 1.000 × 3 2.350 (2.050 to 2.650) 10.49",
        "+ 3 more LN 8 1.500 × 3 2.290 (1.990 to 2.590) 9.87",
        "baseline (Pre-LN) 12 1.000 × 3 2.400 (2.100 to 2.700) 11.02",
        "Difference over pairs of runs with one seed (nats), 95 % intervals",
        "all operations −0.100 (−0.100 to −0.100)",
        "− FFN LN +0.050 (+0.050 to +0.050) −0.050 (−0.050 to −0.050)",
        "+ 3 more LN −0.010 (−0.010 to −0.010) −0.110 (−0.110 to −0.110)",
        "baseline (Pre-LN) +0.100 (+0.100 to +0.100)",
    ):
        assert row in lines
    sentence = " ".join(lines).partition("Against all operations")[2]
    assert "worse: − post-attention LN, − FFN LN, − head scale, − ResScale, baseline" in sentence
    assert "better: + 3 more LN" in sentence
    assert "not distinguished" not in sentence
    tables = {
        name: pd.read_csv(out / f"{name}.csv")
        for name in ("runs", "losses", "summary", "differences")
    }
    assert len(tables["runs"]) == len(tables["losses"]) == 21
    summary = tables["summary"].set_index("arch")
    assert summary["steps"].to_dict() == STEPS
    assert summary["step_ratio"].to_dict() == RATIOS
    assert summary["step_seconds"].to_dict() == pytest.approx(
        {a: 0.02 * r for a, r in RATIOS.items()}
    )
    assert len(tables["differences"]) == 12
    kept = load_study(out).notes
    assert kept["step_times"]["plus-3-more-ln"] == pytest.approx(
        {"median": 0.03, "ratio": 1.5, "low": 1.35, "high": 2.0, "steps": 8}
    )
    assert kept["step_clock"] == "CPU time"
    run = load(out / "nano-d16_minus-ffn-ln_linear0.003_seed2")
    assert (run.config.steps, run.config.model.ffn_mid_norm) == (12, False)


def test_runs_that_broke_are_counted(
    tmp_path: Path, text: str, fake_jobs: Callable[..., None]
) -> None:
    fake_jobs(lambda c: None if (c.arch, c.seed) == ("pre-ln", 1) else worth(c))
    result = invoke("--corpus", text, "--out", str(tmp_path / "study"), "--equal", "steps")
    assert result.exit_code == 0, result.output
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "baseline (Pre-LN) 12 2 of 3 (1 broke) 2.400 (2.100 to 2.700) 11.02" in lines
    assert "baseline (Pre-LN) +0.100 (+0.100 to +0.100), 2 of 3" in lines
    assert any("equal steps" in line for line in lines)
    assert not any("step time" in line for line in lines)


def test_figure_2_is_drawn_from_rows_of_different_lengths(
    tmp_path: Path, text: str, fake_jobs: Callable[..., None]
) -> None:
    fake_jobs(worth)
    out = tmp_path / "study"
    rows = ("--row", "normformer-resscale", "--row", "pre-ln")
    result = invoke("--corpus", text, "--out", str(out), "--val-every", "4", *rows)
    assert result.exit_code == 0, result.output
    drawn = CliRunner().invoke(app, ["figures", str(out), "--compute", "seconds"])
    assert drawn.exit_code == 0, drawn.output
    assert "figure 2: perplexity.png, perplexity.pdf, perplexity.csv" in drawn.stdout
    saved = pd.read_csv(out / "figures" / "perplexity.csv")
    assert saved[["arch", "pairs", "reached"]].to_numpy().tolist() == [
        ["normformer-resscale", 3, 3]
    ]


def test_equal_steps_times_nothing(
    tmp_path: Path, text: str, fake_jobs: Callable[..., None], timed: list[list[str]]
) -> None:
    fake_jobs(worth)
    out = tmp_path / "study"
    result = invoke("--corpus", text, "--out", str(out), "--equal", "steps", "--seeds", "1")
    assert result.exit_code == 0, result.output
    assert timed == []
    assert "step_times" not in load_study(out).notes
    assert set(pd.read_csv(out / "runs.csv")["steps"]) == {12}
    assert "not distinguished: − post-attention LN, − FFN LN" in " ".join(result.stdout.split())
    resumed = invoke("--corpus", text, "--out", str(out), "--seeds", "1", "--resume")
    assert resumed.exit_code == 2
    assert "was not begun at equal time" in resumed.stderr


def test_a_resumed_study_keeps_its_times(
    tmp_path: Path, text: str, fake_jobs: Callable[..., None], timed: list[list[str]]
) -> None:
    rows = ("--row", "normformer-resscale", "--row", "pre-ln")
    arguments = ("--corpus", text, "--out", str(tmp_path / "study"), "--seeds", "2")
    fake_jobs(worth, until=3)
    stopped = invoke(*arguments, *rows)
    assert stopped.exit_code == 130
    assert "--resume" in stopped.stderr
    assert "1 of 2" in stopped.stdout
    assert timed == [["pre-ln", "normformer-resscale"]]
    fake_jobs(worth)
    resumed = invoke(*arguments, *rows, "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert len(timed) == 1
    assert len(pd.read_csv(tmp_path / "study" / "losses.csv")) == 4

    refused = invoke(*arguments, *rows, "--steps", "24", "--resume")
    assert refused.exit_code == 2
    assert "holds another study" in " ".join(refused.stderr.split())
    assert invoke(*arguments, *rows, "--resume", "--seeds", "3").exit_code == 0
    assert len(timed) == 1
    more = invoke(*arguments, *rows, "--row", "normformer", "--resume", "--seeds", "3")
    assert more.exit_code == 0, more.output
    assert timed[1:] == [["pre-ln", "normformer"]]
    kept = load_study(tmp_path / "study").notes["step_times"]
    assert {arch: time["ratio"] for arch, time in kept.items()} == {
        arch: RATIOS[arch] for arch in ("pre-ln", "normformer-resscale", "normformer")
    }


def test_times_that_cannot_be_read_are_refused(
    tmp_path: Path, text: str, fake_jobs: Callable[..., None]
) -> None:
    fake_jobs(worth)
    arguments = ("--corpus", text, "--out", str(tmp_path / "study"), "--seeds", "1")
    assert invoke(*arguments).exit_code == 0
    file = tmp_path / "study" / "study.json"
    document = json.loads(file.read_text())
    for damage in ({"pre-ln": {"median": 1}}, {"pre-ln": 1}, [1]):
        file.write_text(json.dumps({**document, "step_times": damage}))
        result = invoke(*arguments, "--resume")
        assert result.exit_code == 2
        assert "step times that cannot be read" in result.stderr


def test_a_study_without_an_ended_run_says_so(
    tmp_path: Path, text: str, fake_jobs: Callable[..., None]
) -> None:
    fake_jobs(worth, until=0)
    result = invoke("--corpus", text, "--out", str(tmp_path / "study"))
    assert result.exit_code == 130
    assert "has ended: there is nothing to compare." in result.stdout


def test_options_from_a_file(tmp_path: Path, text: str, fake_jobs: Callable[..., None]) -> None:
    fake_jobs(worth)
    file = tmp_path / "study.toml"
    file.write_text(f'corpus = "{text}"\nrow = ["pre-ln"]\nequal = "steps"\nseeds = 1\n')
    out = tmp_path / "study"
    assert invoke("--config", str(file), "--out", str(out)).exit_code == 0
    assert pd.read_csv(out / "runs.csv")["arch"].tolist() == ["pre-ln"]


@pytest.mark.slow
@pytest.mark.long
def test_a_study_from_the_command_to_the_table(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.delenv("COLUMNS", raising=False)
    out = tmp_path / "study"
    rows = ("--row", "plus-3-more-ln", "--row", "pre-ln")
    arguments = ("--corpus", text, "--out", str(out), "--seeds", "1", *rows)
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    losses = read_csv(out / "losses.csv").set_index("arch")
    kept = load_study(out).notes["step_times"]
    for arch, row in losses.iterrows():
        run = load(out / f"nano-d16_{arch}_linear0.003_seed0")
        steps = run.table("steps")
        assert row["val_loss"] == steps["val_loss"].dropna().iloc[0]
        assert len(steps) == run.config.steps == row["steps"] == kept[arch]["steps"]
        assert abs(row["steps"] - 12 / kept[arch]["ratio"]) <= 0.5
    assert kept["plus-3-more-ln"]["ratio"] > kept["pre-ln"]["ratio"] == 1
    assert invoke(*arguments).exit_code == 2
    assert invoke(*arguments, "--resume").exit_code == 0
    assert load_study(out).notes["step_times"] == kept
