from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from gradlab.cli.main import app
from gradlab.config import RunConfig
from gradlab.errors import ConfigError
from gradlab.runs.csv_files import read_csv
from gradlab.runs.reader import load
from gradlab.runs.study import load_study
from gradlab.studies import Variants
from gradlab.studies import run as study_module
from gradlab.studies import step_times as times_module
from gradlab.studies.step_times import StepTime
from gradlab.studies.variant import VARIANTS, read_variant

pytestmark = pytest.mark.usefixtures("unrendered")

SMALL = [
    *("variants", "--device", "cpu", "--size", "nano", "--width", "16", "--n-layers", "2"),
    *("--max-seq-len", "8", "--batch-size", "2", "--jobs", "1", "--steps", "30", "--warmup", "2"),
]
TWO = ("--variant", "base", "--variant", "lr=0.5x,clip_norm=0.1")
# What the variant adds to all losses, and normformer's lead in it.
LEADS = {"base": (0.0, -0.05), "lr=0.5x,clip_norm=0.1": (1.0, 0.02)}


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, [*SMALL, *arguments])


def lines_of(result: Result) -> list[str]:
    return [" ".join(line.split()) for line in result.stdout.splitlines()]


def leading(config: RunConfig) -> float:
    level, lead = LEADS[config.variant]
    return 2 + level + (lead if config.arch == "normformer" else 0.0) + 0.3 * config.seed


@pytest.fixture(autouse=True)
def timed(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The rows that were timed, in each call; NormFormer takes a fifth longer."""
    calls = []

    def step_times(configs: Sequence[RunConfig], **_: Any) -> list[StepTime]:
        calls.append([config.row for config in configs])
        ratios = [1.2 if config.arch == "normformer" else 1.0 for config in configs]
        return [StepTime(0.02 * ratio, ratio, ratio, ratio) for ratio in ratios]

    monkeypatch.setattr(times_module, "step_times", step_times)
    return calls


def test_the_default_study() -> None:
    configs = Variants().configs()
    assert [(config.seed, config.variant, config.arch) for config in configs] == [
        (seed, variant, arch)
        for seed in range(3)
        for variant in VARIANTS
        for arch in ("pre-ln", "normformer")
    ]
    first = {config.variant: config for config in configs if config.seed == 0}
    base = first["base"]
    assert (base.steps, base.val_every, base.schedule.lr, base.schedule.warmup_steps) == (
        *(500, 500),
        *(3e-3, 10),
    )

    def changed(**fields: Any) -> RunConfig:
        return base.replace(**fields)

    schedule, optimizer = base.schedule, base.optimizer
    assert first == {
        "base": base,
        "longer-warmup": changed(
            variant="longer-warmup", schedule=schedule.replace(warmup_steps=120)
        ),
        "gpt3": changed(variant="gpt3", model=base.model.replace(max_seq_len=128, dropout=0.1)),
        "grad-clip": changed(variant="grad-clip", optimizer=optimizer.replace(clip_norm=0.1)),
        "dropout": changed(variant="dropout", model=base.model.replace(dropout=0.1)),
        "half-lr": changed(variant="half-lr", schedule=schedule.replace(lr=1.5e-3)),
        "twice-lr": changed(variant="twice-lr", schedule=schedule.replace(lr=6e-3)),
        "weight-decay": changed(
            variant="weight-decay", optimizer=optimizer.replace(weight_decay=0.1)
        ),
    }


def test_a_variant_of_ones_own() -> None:
    given = {"lr": 2e-3, "warmup": 30, "clip_norm": None, "dropout": 0.0, "schedule": "linear"}
    own = read_variant("lr = 0.5x, clip-norm=0.1,warmup=3x,schedule=cosine", given)
    assert own.name == "lr=0.5x,clip_norm=0.1,warmup=3x,schedule=cosine"
    assert own.changes == {"lr": 1e-3, "clip_norm": 0.1, "warmup": 90, "schedule": "cosine"}
    assert own.text == "lr 0.001, clip_norm 0.1, warmup 90, schedule cosine"
    options = Variants(variant=["steps=2x", "base", "steps = 2x"], val_every=20, seeds=1)
    assert [(c.variant, c.steps, c.val_every) for c in options.configs()] == [
        *[("steps=2x", 1000, 20)] * 2,
        *[("base", 500, 20)] * 2,
    ]


def test_variants_that_take_as_long_are_timed_once(
    tmp_path: Path, text: str, fake_jobs: Callable[..., None], timed: list[list[str]]
) -> None:
    groups = Variants(arch=["normformer", "pre-ln"]).timed()
    assert [[config.row for config in group] for group in groups][:2] == [
        ["pre-ln", "normformer"],
        ["pre-ln_longer-warmup", "normformer_longer-warmup"],
    ]
    fake_jobs(lambda _: 2.0)
    out = tmp_path / "study"
    result = invoke("--corpus", text, "--out", str(out), "--seeds", "1")
    assert result.exit_code == 0, result.output
    assert [rows[0] for rows in timed] == [
        "pre-ln", "pre-ln_gpt3", "pre-ln_grad-clip", "pre-ln_dropout"
    ]  # fmt: skip
    kept = load_study(out).notes["step_times"]
    assert {row: time["steps"] for row, time in kept.items()} == {
        row: 25 if row.startswith("normformer") else 30
        for row in (config.row for group in groups for config in group)
    }


def test_the_table_the_sentence_and_the_files(
    tmp_path: Path, text: str, fake_jobs: Callable[..., None]
) -> None:
    fake_jobs(leading)
    out = tmp_path / "study"
    result = invoke("--corpus", text, "--out", str(out), *TWO)
    assert result.exit_code == 0, result.output
    lines = lines_of(result)
    for row in (
        "base pre-ln 30 3 2.300 (2.000 to 2.600) 9.97",
        "base normformer 25 3 2.250 (1.950 to 2.550) 9.49",
        "lr=0.5x, clip_norm=0.1 pre-ln 30 3 3.300 (3.000 to 3.600) 27.11",
        "lr=0.5x, clip_norm=0.1 normformer 25 3 3.320 (3.020 to 3.620) 27.66",
        "base – normformer −0.050 (−0.050 to −0.050)",
        "lr=0.5x, clip_norm=0.1 lr 0.0015, clip_norm 0.1 normformer +0.020 (+0.020 to +0.020)",
    ):
        assert row in lines
    assert (
        "normformer against pre-ln (95 % intervals over pairs of runs with one seed), worse: "
        "lr=0.5x,clip_norm=0.1; better: base."
    ) in " ".join(lines)
    runs = pd.read_csv(out / "runs.csv")
    assert runs[["variant", "lr"]].drop_duplicates().to_numpy().tolist() == [
        ["base", 3e-3],
        ["lr=0.5x,clip_norm=0.1", 1.5e-3],
    ]
    summary = pd.read_csv(out / "summary.csv")
    assert summary["change"].tolist() == ["–", "–", *["lr 0.0015, clip_norm 0.1"] * 2]
    assert summary["step_ratio"].tolist() == [1.0, 1.2, 1.0, 1.2]
    assert len(pd.read_csv(out / "losses.csv")) == 12
    assert len(pd.read_csv(out / "differences.csv")) == 2
    run = load(out / "nano-d16_normformer_lr=0.5x,clip_norm=0.1_linear0.0015_seed2")
    assert (run.config.steps, run.config.optimizer.clip_norm) == (25, 0.1)


def test_the_tables_fit_a_terminal(
    tmp_path: Path, text: str, fake_jobs: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_jobs(lambda config: 2.0 + 0.1 * config.seed)
    monkeypatch.setenv("COLUMNS", "80")
    result = invoke("--corpus", text, "--out", str(tmp_path / "study"), *TWO)
    assert result.exit_code == 0, result.output
    assert max(len(line.rstrip()) for line in result.stdout.splitlines()) <= 80
    assert "2.100 (2.000 to 2.200)" in result.stdout
    assert "lr=0.5x, " in result.stdout


@pytest.mark.long
def test_figures_and_report_keep_variants_apart(
    tmp_path: Path, text: str, fake_jobs: Callable[..., None]
) -> None:
    fake_jobs(leading)
    out = tmp_path / "study"
    assert invoke("--corpus", text, "--out", str(out), *TWO, "--seeds", "1").exit_code == 0
    drawn = CliRunner().invoke(app, ["figures", str(out), "--format", "png"])
    assert drawn.exit_code == 0, drawn.output
    assert "figure 2 comes 2 times: not all runs compare, as their variants differ." in drawn.stdout
    names = {file.name for file in (out / "figures").glob("perplexity_*.png")}
    assert names == {
        "perplexity_nano-d16_linear0.003.png",
        "perplexity_nano-d16_lr_0.5x_clip_norm_0.1.png",
    }
    page = tmp_path / "report.html"
    reported = CliRunner().invoke(app, ["report", str(out), "--out", str(page)])
    assert reported.exit_code == 0, reported.output
    written = page.read_text()
    assert "nano-d16, lr=0.5x,clip_norm=0.1, linear LR 0.0015" in written
    assert "gradlab variants" in written


def test_a_resumed_study_takes_more_variants(
    tmp_path: Path, text: str, fake_jobs: Callable[..., None], timed: list[list[str]]
) -> None:
    arguments = ("--corpus", text, "--out", str(tmp_path / "study"), "--seeds", "1")
    fake_jobs(leading, until=1)
    stopped = invoke(*arguments, "--variant", "base")
    assert stopped.exit_code == 130
    assert "1 of 1" not in stopped.stdout
    fake_jobs(leading)
    resumed = invoke(*arguments, *TWO, "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert timed == [
        ["pre-ln", "normformer"],
        ["pre-ln_lr=0.5x,clip_norm=0.1", "normformer_lr=0.5x,clip_norm=0.1"],
    ]
    assert len(pd.read_csv(tmp_path / "study" / "losses.csv")) == 4
    other = invoke(*arguments, *TWO, "--arch", "pre-ln", "--arch", "post-ln", "--resume")
    assert other.exit_code == 2
    assert "is not among these" in " ".join(other.stderr.split())


def test_a_baseline_that_broke_is_no_reference(
    tmp_path: Path, text: str, fake_jobs: Callable[..., None]
) -> None:
    fake_jobs(lambda c: None if c.arch == "pre-ln" else leading(c))
    out = tmp_path / "study"
    result = invoke("--corpus", text, "--out", str(out), *TWO, "--equal", "steps", "--seeds", "1")
    assert result.exit_code == 0, result.output
    assert "base pre-ln 30 0 of 1 (1 broke) – –" in lines_of(result)
    assert "base normformer 30 1 1.950 7.03" in lines_of(result)
    assert "base – normformer –" in lines_of(result)
    assert "not distinguished: base, lr=0.5x,clip_norm=0.1" in " ".join(lines_of(result))


def test_a_study_stopped_before_a_baselines_end_shows_the_others(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch, fake_jobs: Callable[..., None]
) -> None:
    fake_jobs(leading, until=1)
    in_order = study_module.run_jobs
    monkeypatch.setattr(study_module, "run_jobs", lambda jobs, **rest: in_order(jobs[::-1], **rest))
    result = invoke("--corpus", text, "--out", str(tmp_path / "study"), "--variant", "base")
    assert result.exit_code == 130
    assert "base normformer 25 1 of 3 2.550 12.81" in lines_of(result)


def test_options_from_a_file(tmp_path: Path, text: str, fake_jobs: Callable[..., None]) -> None:
    fake_jobs(leading)
    file = tmp_path / "study.toml"
    file.write_text(f'corpus = "{text}"\nvariant = ["base", "lr=0.5x,clip_norm=0.1"]\nseeds = 1\n')
    out = tmp_path / "study"
    result = invoke("--config", str(file), "--out", str(out), "--equal", "steps")
    assert result.exit_code == 0, result.output
    assert pd.read_csv(out / "runs.csv")["variant"].unique().tolist() == list(LEADS)


def test_a_config_error_names_the_variant() -> None:
    with pytest.raises(ConfigError, match="variant weight_decay=-1: weight_decay = -1"):
        Variants(variant=["weight_decay=-1"]).configs()


@pytest.mark.long
def test_a_study_from_the_command_to_the_table(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.delenv("COLUMNS", raising=False)
    out = tmp_path / "study"
    variants = ("--variant", "base", "--variant", "gpt3", "--variant", "grad-clip")
    arguments = ("--corpus", text, "--out", str(out), "--seeds", "1", *variants)
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    losses = read_csv(out / "losses.csv").set_index(["variant", "arch"])
    assert len(losses) == 6
    kept = load_study(out).notes["step_times"]
    for row in pd.read_csv(out / "runs.csv").to_dict("records"):
        variant, arch = row["variant"], row["arch"]
        name = arch if variant == "base" else f"{arch}_{variant}"
        run = load(out / f"nano-d16_{name}_linear0.003_seed0")
        steps = run.table("steps")
        assert losses.loc[(variant, arch), "val_loss"] == steps["val_loss"].iloc[-1]
        assert len(steps) == run.config.steps == row["steps"] == kept[name]["steps"]
        assert abs(row["steps"] - 30 / kept[name]["ratio"]) <= 0.5
    model = load(out / "nano-d16_normformer_gpt3_linear0.003_seed0").config.model
    assert (model.max_seq_len, model.dropout) == (16, 0.1)
    assert invoke(*arguments, "--resume").exit_code == 0
    assert load_study(out).notes["step_times"] == kept
