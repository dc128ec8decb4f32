"""What users give by mistake: odd files, names and numbers end in a sentence."""

import math
import os
import sys
from pathlib import Path

import pytest
import torch

import gradlab
from gradlab.config import DataConfig, RunConfig, ScheduleConfig
from gradlab.data.corpus import load_corpus
from gradlab.errors import ConfigError, GradlabError
from gradlab.models.config import ModelConfig
from gradlab.paths import as_path
from gradlab.runs.files import read_regular
from gradlab.runs.study import load_study
from gradlab.training.loop import train
from gradlab.training.memory_needed import check_memory

posix = pytest.mark.skipif(sys.platform == "win32", reason="there are no such files")


def run_config(**fields: object) -> RunConfig:
    model = ModelConfig(d_model=8, n_layers=1, n_heads=1, d_ff=8, max_seq_len=4)
    given = {"model": model, "schedule": ScheduleConfig(lr=1e-3), "steps": 1, **fields}
    return RunConfig(arch="pre-ln", size="nano", **given)


def test_a_tilde_is_the_home_folder_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "text.txt").write_text("the quick brown fox " * 20)
    data = DataConfig(corpus="~/text.txt")
    run = train(run_config(data=data, device="cpu"), "~/runs/one")
    assert run.path == tmp_path / "runs" / "one"
    assert gradlab.load("~/runs/one").config.data == data
    assert as_path("~") == tmp_path


@pytest.mark.parametrize("given", ["", "a\0b", "a\udcff", "n" * 256, 5, None, b"a"])
def test_a_path_that_no_file_can_have_is_one_sentence(given: object) -> None:
    with pytest.raises(GradlabError, match=r"\.$"):
        as_path(given)  # type: ignore[arg-type]
    with pytest.raises(GradlabError, match=r"\.$"):
        gradlab.load(given)  # type: ignore[arg-type]


@posix
@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_what_is_no_regular_file_is_not_read(tmp_path: Path, kind: str) -> None:
    def make(path: Path) -> Path:
        path.parent.mkdir(exist_ok=True)
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        else:
            path.symlink_to("/dev/zero")
        return path

    with pytest.raises(GradlabError, match=f"it is a {kind}"):
        read_regular(make(tmp_path / "file"), at_most=100)
    make(tmp_path / "run" / "run.json")
    with pytest.raises(GradlabError, match=f"it is a {kind}"):
        gradlab.load(tmp_path / "run")
    make(tmp_path / "study" / "study.json")
    with pytest.raises(GradlabError, match=f"it is a {kind}"):
        load_study(tmp_path / "study")
    if kind != "folder":
        with pytest.raises(GradlabError, match=f"it is a {kind}"):
            load_corpus(DataConfig(corpus=str(tmp_path / "file")), seq_len=1)


def test_a_file_without_bound_is_not_read(tmp_path: Path) -> None:
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(GradlabError, match="more than 100 bytes"):
        read_regular(large, at_most=100)
    with pytest.raises(GradlabError, match="more than"):
        load_corpus(DataConfig(corpus=str(large)), seq_len=1)


def test_json_nested_without_end_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("[" * 200_000)
    with pytest.raises(GradlabError, match=r"run\.json is damaged"):
        gradlab.load(tmp_path)


@pytest.mark.parametrize(
    "fields",
    [
        {"seed": 2**64},
        {"seed": -1},
        {"seed": True},
        {"steps": 10**20},
        {"batch_size": 10**5000},
        {"steps": True},
    ],
)
def test_a_number_that_is_none_or_too_large_is_one_sentence(fields: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(fields))):
        run_config(**fields)


@pytest.mark.parametrize("lr", [True, 10**400, float("inf"), float("nan")])
def test_a_learning_rate_is_a_finite_number(lr: float) -> None:
    with pytest.raises(ConfigError, match="lr"):
        ScheduleConfig(lr=lr)


def test_the_largest_seed_trains(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("the quick brown fox " * 20)
    data = DataConfig(corpus=str(tmp_path / "text.txt"))
    run = train(run_config(seed=2**63 - 1, data=data, device="cpu"), tmp_path / "run")
    assert gradlab.load(tmp_path / "run").config.seed == run.config.seed == 2**63 - 1


@pytest.mark.skipif(sys.platform == "win32", reason="which does not say how much there is")
def test_the_state_of_the_optimizer_has_to_fit_as_well() -> None:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    width = 2 * math.isqrt(memory // (4 * 12 * 12))  # 12 d² weights: two thirds, with gradients
    large = ModelConfig(d_model=width, n_layers=1, n_heads=1, d_ff=4 * width, max_seq_len=4)
    with pytest.raises(GradlabError, match=r"needs at least .* of memory"):
        check_memory(run_config(model=large), torch.device("cpu"))


@pytest.mark.parametrize(
    "change",
    [
        {"model": ModelConfig(d_model=10**8, n_layers=6, n_heads=4, d_ff=10**8, max_seq_len=4)},
        {"model": ModelConfig(d_model=8, n_layers=10**15, n_heads=1, d_ff=8, max_seq_len=4)},
        {"batch_size": 10**15},
        {"accumulation": 10**15},
        {"val_every": 1, "val_batches": 10**15},
    ],
)
def test_a_run_that_cannot_fit_is_refused_before_anything_is_made(
    tmp_path: Path, change: dict[str, object]
) -> None:
    with pytest.raises(GradlabError, match=r"needs at least .* of memory"):
        train(run_config(device="cpu", **change), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_with_a_run_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("the quick brown fox " * 20)
    config = run_config(data=DataConfig(corpus=str(tmp_path / "text.txt")), device="cpu")
    train(config, tmp_path / "run")
    with pytest.raises(GradlabError, match=r"holds a run that has finished: choose another folder"):
        train(config, tmp_path / "run")
