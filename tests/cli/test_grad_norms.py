import math
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pandas as pd
import pytest
from made_up_runs import write_rows
from typer.testing import CliRunner, Result

from gradlab.analyses.gradient_study import window_length
from gradlab.cli.main import app
from gradlab.config import OptimizerConfig, PrecisionConfig, RecordConfig, RunConfig, ScheduleConfig
from gradlab.errors import GradlabError
from gradlab.figures.kind import Choices
from gradlab.models.presets import model_config
from gradlab.runs.reader import Run, load
from gradlab.runs.verdict import Verdict
from gradlab.runs.writer import RunWriter
from gradlab.studies import Gradients

pytestmark = pytest.mark.usefixtures("unrendered")

SMALL = [
    *("grad-norms", "--device", "cpu", "--size", "nano", "--width", "16", "--n-layers", "4"),
    *("--max-seq-len", "8", "--batch-size", "2", "--jobs", "2"),
    *("--steps", "10", "--warmup", "2", "--average", "4"),
]
FALLS = {"post-ln": 0.5, "pre-ln": 3.0, "normformer": 2.5}


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, [*SMALL, *arguments])


def test_the_default_study_is_the_published_setting() -> None:
    configs = Gradients().configs()
    assert [(config.seed, config.arch) for config in configs] == [
        (seed, arch) for seed in range(3) for arch in ("post-ln", "pre-ln", "normformer")
    ]
    for config in configs:
        assert config == RunConfig(
            arch=config.arch,
            size="micro",
            model=model_config(config.arch, "micro"),
            schedule=ScheduleConfig(kind="constant", lr=1e-3, warmup_steps=100),
            steps=300,
            seed=config.seed,
            batch_size=8,
            optimizer=OptimizerConfig(),
            precision=PrecisionConfig(name="fp32"),
            record=RecordConfig(probes=("grad_norms",), every=1),
        )
    shape = configs[0].model
    assert (shape.n_layers, shape.d_model, shape.max_seq_len) == (12, 128, 128)


def test_the_gradients_are_recorded_whatever_else_is() -> None:
    options = Gradients(probes=["scales", "headroom"], seeds=1, arch=["pre-ln", "pre-ln"])
    (config,) = options.configs()
    assert config.record.probes == ("grad_norms", "scales", "headroom")
    (alone,) = Gradients(probes=["none"], seeds=1, arch=["pre-ln"]).configs()
    assert alone.record.probes == ("grad_norms",)


def test_a_size_that_names_its_width_takes_no_other() -> None:
    with pytest.raises(GradlabError, match="names its width"):
        Gradients(size="nano-d16", width=32).configs()


def write_run(folder: Path, config: RunConfig, *, reason: str = "completed") -> None:
    """A run whose fc2 gradients fall by the same factor from layer to layer."""
    writer = RunWriter(folder, config, {"params": 9, "corpus": {"sha256": "a"}})
    places = [(step, layer) for step in range(config.steps) for layer in range(4)]
    falls = FALLS[config.arch] * (1 + 0.1 * config.seed)
    write_rows(
        writer,
        "grad_norms",
        step=[step for step, _ in places],
        param=[f"blocks.{layer}.feed_forward.fc2.weight" for _, layer in places],
        layer=[layer for _, layer in places],
        grad_l1=[falls ** (-layer / 2) for _, layer in places],
    )
    writer.finish("finished", Verdict(reason=reason, step=config.steps - 1))


@pytest.fixture
def fake_study(jobs_by: Callable[..., None]) -> Callable[..., None]:
    """Studies that train nothing: the first `whole` runs are made up, the others have broken."""

    def fake(*, whole: int, until: int | None = None) -> None:
        numbers = count()

        def write(folder: Path, config: RunConfig) -> None:
            write_run(folder, config, reason="completed" if next(numbers) < whole else "loss_rise")

        jobs_by(write, until=until)

    return fake


def lines_of(result: Result) -> list[list[str]]:
    return [line.split() for line in result.stdout.splitlines()]


def test_the_table_the_sentences_and_the_files(
    tmp_path: Path, text: str, fake_study: Callable[..., None]
) -> None:
    fake_study(whole=9)
    result = invoke("--corpus", text, "--out", str(tmp_path / "s"))
    assert result.exit_code == 0, result.output
    # Equal factors a layer: the two first over the two last are one factor each.
    ratios = [3.0, 3.0 * 1.1, 3.0 * 1.2]
    mean = math.prod(ratios) ** (1 / 3)
    row = ["pre-ln", "3", f"{mean:.3g}", "(3", "to", "3.6)"]
    assert [line[:7] for line in lines_of(result) if "2–5" in line][1] == ["2–5", *row]
    assert [line[:7] for line in lines_of(result) if "6–9" in line][1] == ["6–9", *row]
    assert "pre-ln's late fc2 mismatch is 6 times post-ln's (95 % interval 6 to 6, 3 seeds)." in (
        result.stdout
    )
    tables = {name: pd.read_csv(tmp_path / "s" / f"{name}.csv") for name in ("runs", "gradients")}
    assert tables["runs"]["arch"].tolist() == ["post-ln", "pre-ln", "normformer"] * 3
    assert len(tables["gradients"]) == 9 * 2 * 4
    mismatch = pd.read_csv(tmp_path / "s" / "mismatch.csv").set_index(["arch", "seed", "window"])
    assert mismatch.loc[("normformer", 2, "late"), "ratio"] == pytest.approx(3.0)
    slope = mismatch.loc[("normformer", 2, "late"), "slope"]
    assert slope == pytest.approx(-1.5 * math.log(3.0))
    summary = pd.read_csv(tmp_path / "s" / "summary.csv").set_index(["window", "arch"])
    assert summary.loc[("early", "pre-ln"), "ratio"] == pytest.approx(mean)
    differences = pd.read_csv(tmp_path / "s" / "differences.csv")
    assert differences["quotient"].tolist() == pytest.approx([6, 5, 5 / 6] * 2)
    for form in ("png", "pdf"):
        assert (tmp_path / "s" / f"gradients_fc2.{form}").exists()


def test_broken_runs_are_left_out_and_counted(
    tmp_path: Path, text: str, fake_study: Callable[..., None]
) -> None:
    fake_study(whole=7)
    result = invoke("--corpus", text, "--out", str(tmp_path / "s"))
    assert result.exit_code == 0, result.output
    counts = [" ".join(line[1:5]) for line in lines_of(result) if "6–9" in line]
    assert counts[0].startswith("post-ln 3 ")
    assert counts[1:] == ["pre-ln 2 of 3", "normformer 2 of 3"]
    assert "3.15 (" in result.stdout
    assert "2 of 3 seeds" in result.stdout


def test_an_interrupted_study_shows_what_it_has(
    tmp_path: Path, text: str, fake_study: Callable[..., None]
) -> None:
    fake_study(whole=9, until=2)
    result = invoke("--corpus", text, "--out", str(tmp_path / "s"))
    assert result.exit_code == 130
    assert "on the one seed of both: not distinguished." in result.stdout
    assert ["6–9", "normformer", "0", "of", "3", "–", "–"] in lines_of(result)
    assert "--resume" in result.stderr
    assert (tmp_path / "s" / "summary.csv").exists()
    assert not list(tmp_path.glob("*.png"))


def test_a_study_without_a_whole_run_says_so(
    tmp_path: Path, text: str, fake_study: Callable[..., None]
) -> None:
    fake_study(whole=0)
    result = invoke("--corpus", text, "--out", str(tmp_path / "s"))
    assert result.exit_code == 0
    assert "has reached its last step: there is nothing to compare." in result.stdout
    assert (tmp_path / "s" / "runs.csv").exists()


def test_another_average_looks_at_the_same_runs_again(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch, jobs_by: Callable[..., None]
) -> None:
    trained = []

    def write(folder: Path, config: RunConfig) -> None:
        trained.append(folder)
        write_run(folder, config)

    jobs_by(write)
    monkeypatch.setattr("gradlab.studies.run._check_corpora", lambda _: None)
    out = tmp_path / "study"
    study = ("--corpus", text, "--out", str(out), "--seeds", "2")
    for average, late, more in ((4, "6–9", ()), (3, "7–9", ("--resume", "--average", "3"))):
        result = invoke(*study, *more)
        assert result.exit_code == 0, result.output
        assert late in result.stdout
        written = pd.read_csv(out / "gradients.csv")
        assert set(written["last"] - written["first"]) == {average - 1}
        assert window_length(study_runs(out)) == average
    assert len(trained) == 6
    page = tmp_path / "page.html"
    assert CliRunner().invoke(app, ["report", str(out), "--out", str(page)]).exit_code == 0
    assert "--average 3" in page.read_text()
    assert Choices(average=2).length_of(study_runs(out)) == 2


def study_runs(out: Path) -> list[Run]:
    return [load(file.parent) for file in sorted(out.glob("*/run.json"))]


@pytest.mark.slow
@pytest.mark.usefixtures("trained_here")
def test_a_study_from_the_command_to_the_figure(tmp_path: Path, text: str) -> None:
    out = tmp_path / "study"
    arguments = ("--corpus", text, "--out", str(out), "--seeds", "1", "--arch", "pre-ln")
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    run = load(out / "nano-d16_pre-ln_constant0.001_seed0")
    recorded = run.table("grad_norms")
    assert sorted(recorded["step"].unique()) == list(range(10))
    late = recorded[(recorded["step"] >= 6) & recorded["param"].str.endswith("fc2.weight")]
    layers = late.groupby("layer")["grad_l1"].mean().to_numpy()
    mismatch = pd.read_csv(out / "mismatch.csv").set_index(["window", "op"])
    ratio = (layers[0] + layers[1]) / (layers[2] + layers[3])
    assert mismatch.loc[("late", "fc2"), "ratio"] == pytest.approx(ratio)
    assert (out / "gradients_fc2.pdf").exists()

    before = (out / "mismatch.csv").read_text()
    assert invoke(*arguments).exit_code == 2
    resumed = invoke(*arguments, "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert (out / "mismatch.csv").read_text() == before
