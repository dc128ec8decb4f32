"""What `gradlab.inspect` says of a study: what its command said."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

import gradlab
from gradlab.cli.main import app
from gradlab.config import RunConfig
from gradlab.errors import GradlabError
from gradlab.settings import OneRun
from gradlab.studies.table import STABILITY

pytestmark = pytest.mark.usefixtures("unrendered")

MODEL = [
    *("--device", "cpu", "--size", "nano", "--width", "16", "--n-layers", "2"),
    *("--max-seq-len", "8", "--batch-size", "2", "--jobs", "1", "--steps", "30", "--warmup", "2"),
]


def words(text: str) -> str:
    return " ".join(text.split())


def loss(config: RunConfig) -> float:
    return 3 + 0.1 * config.seed + 0.2 * (config.arch == "pre-ln") + 0.01 * len(config.row)


@pytest.mark.parametrize(
    "command",
    [
        ["lr-search", "--lr", "1e-3", "--lr", "2e-3"],
        ["ablate", "--equal", "steps"],
        ["variants", "--equal", "steps", "--variant", "base", "--variant", "dropout=0.1"],
    ],
    ids=lambda command: command[0],
)
def test_the_sentences_of_a_study_are_those_of_its_command(
    tmp_path: Path, text: str, fake_jobs: Callable[..., None], command: list[str]
) -> None:
    fake_jobs(loss)
    out = tmp_path / "study"
    arguments = [*command, *MODEL, "--corpus", text, "--out", str(out)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    found = gradlab.inspect(out)
    assert found.sentences
    for sentence in found.sentences:
        assert words(sentence) in words(done.stdout)
    inspected = CliRunner().invoke(app, ["inspect", str(out)])
    assert words(inspected.stdout) == words(str(found)) == words(" ".join(found.sentences))
    file = out / "study.json"
    file.write_text(json.dumps({"runs": json.loads(file.read_text())["runs"]}))
    with pytest.raises(GradlabError, match="name one of its runs"):
        gradlab.inspect(out)


def test_a_stability_study_says_what_broke(tmp_path: Path, write_run: Callable[..., Path]) -> None:
    names = [f"{arch}_{seed}" for seed in range(2) for arch in ("pre-ln", "normformer")]
    for name in names:
        arch, _, seed = name.rpartition("_")
        write_run(tmp_path / name, arch, int(seed))
    note = {"command": {"name": "run-stability", "options": {}}}
    (tmp_path / "study.json").write_text(json.dumps({"runs": {name: {} for name in names}, **note}))
    STABILITY.write(tmp_path, (gradlab.load(tmp_path / name) for name in names))
    broke, other, differs = gradlab.inspect(tmp_path).sentences
    assert broke.startswith("pre-ln at nano, LR rising by 0.01 a step: LR at the break 0.0705")
    assert "blocks.0.attention.scores (2 of 2)" in other
    assert differs.startswith("normformer breaks 14 % higher than pre-ln (95 % interval")


@pytest.mark.parametrize("command", ["lr-search", "ablate", "variants", "grad-norms"])
def test_a_study_none_of_whose_runs_has_ended_says_so(tmp_path: Path, command: str) -> None:
    config = OneRun(device="cpu").config().model_dump(mode="json")
    note = {"command": {"name": command, "options": {}}}
    (tmp_path / "study.json").write_text(json.dumps({"runs": {"one": config}, **note}))
    with pytest.raises(GradlabError, match=r"says nothing yet|no run reached its last step"):
        gradlab.inspect(tmp_path)


def test_rows_of_an_ablation_without_all_operations_are_told_against_the_baseline(
    tmp_path: Path, text: str, fake_jobs: Callable[..., None]
) -> None:
    fake_jobs(loss)
    out = tmp_path / "study"
    rows = ["--row", "normformer", "--row", "pre-ln", "--equal", "steps"]
    done = CliRunner().invoke(app, ["ablate", *rows, *MODEL, "--corpus", text, "--out", str(out)])
    (sentence,) = gradlab.inspect(out).sentences
    assert sentence.startswith("Against baseline (Pre-LN)")
    assert "ResScale" in sentence
    assert words(sentence) in words(done.stdout)
