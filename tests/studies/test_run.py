import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import gradlab
from gradlab.config import DataConfig, OptimizerConfig, PrecisionConfig, RunConfig, ScheduleConfig
from gradlab.errors import GradlabError
from gradlab.runs.command import Command
from gradlab.runs.lock import FolderLock
from gradlab.runs.study import load_study, run_name
from gradlab.studies import League
from gradlab.studies import run as run_module
from gradlab.studies.folder import check_folder, claim
from gradlab.studies.news import News, RunUpdate
from gradlab.studies.run import run_study, train_runs
from gradlab.studies.table import STABILITY

Make = Callable[..., RunConfig]


def make(configs: Sequence[RunConfig], out: Path, **how: Any) -> dict[str, str]:
    """A study of some runs at a ramp."""
    return train_runs(configs, out, table=STABILITY, **how)


@pytest.fixture
def make_ramp(make_config: Make) -> Make:
    def make(**fields: object) -> RunConfig:
        ramp = ScheduleConfig(kind="ramp", lr_step=1e-4)
        return make_config(**{"schedule": ramp, "steps": 8, **fields})

    return make


def table(out: Path) -> pd.DataFrame:
    return pd.read_csv(out / "stability.csv")


def test_names_show_what_differs(make_ramp: Make) -> None:
    assert run_name(make_ramp(seed=3)) == "tiny_pre-ln_ramp0.0001_seed3"


def test_two_runs_of_one_name_are_refused(make_ramp: Make, tmp_path: Path) -> None:
    with pytest.raises(GradlabError, match="same name"):
        make([make_ramp(), make_ramp(steps=9)], tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_a_folder_that_is_no_study_is_refused(make_ramp: Make, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(GradlabError, match="not a study"):
        make([make_ramp()], tmp_path, resume=True)
    assert (tmp_path / "mine.txt").read_text() == "precious"


def write_plan(out: Path, *configs: RunConfig) -> None:
    plan = {run_name(config): config.model_dump(mode="json") for config in configs}
    (out / "study.json").write_text(json.dumps({"runs": plan}))


def test_a_study_is_not_continued_unasked(make_ramp: Make, tmp_path: Path) -> None:
    write_plan(tmp_path, make_ramp())
    with pytest.raises(GradlabError, match="--resume"):
        make([make_ramp()], tmp_path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"steps": 9}, "--steps is 9 there and 8 here in its run tiny_pre-ln_ramp0.0001_seed0"),
        ({"model": {"dropout": 0.1}}, "dropout is 0.1 there and 0.0 here"),
        (
            {"optimizer": OptimizerConfig(beta1=0.8, eps=1e-6)},
            "beta1 is 0.8 there and 0.9 here",
        ),
        ({"seed": 1}, "its run tiny_pre-ln_ramp0.0001_seed1 is not among these"),
    ],
)
def test_a_refusal_says_what_differs_and_how_the_study_was_begun(
    make_ramp: Make, tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    config = make_ramp(**change)
    plan = {run_name(config): config.model_dump(mode="json")}
    note = Command("run-stability", {"lr_step": [1e-4]}).note()
    (tmp_path / "study.json").write_text(json.dumps({"runs": plan, **note}))
    with pytest.raises(GradlabError) as error:
        make([make_ramp()], tmp_path, resume=True)
    assert reason in str(error.value)
    assert "begun with `gradlab run-stability --lr-step 0.0001`" in str(error.value)


@pytest.mark.parametrize("change", [{"steps": 9}, {"seed": 1}, {"batch_size": 5}])
def test_another_study_is_refused(make_ramp: Make, tmp_path: Path, change: dict[str, int]) -> None:
    write_plan(tmp_path, make_ramp(**change))
    (tmp_path / "stability.csv").write_text("what the other study says\n")
    for resume in (True, False):
        with pytest.raises(GradlabError, match=r"another study|a study already"):
            make([make_ramp()], tmp_path, resume=resume)
    assert (tmp_path / "stability.csv").read_text() == "what the other study says\n"


def test_a_damaged_plan_is_refused(make_ramp: Make, tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text("{")
    with pytest.raises(GradlabError, match=r"study\.json is damaged"):
        make([make_ramp()], tmp_path, resume=True)


def test_a_study_on_another_text_is_refused(make_ramp: Make, tmp_path: Path) -> None:
    text = tmp_path / "mine.txt"
    text.write_text("one text " * 400)
    configs = [make_ramp(seed=seed, data=DataConfig(corpus=str(text))) for seed in (0, 1)]
    out = tmp_path / "study"
    out.mkdir()
    write_plan(out, *configs)
    gradlab.train(configs[0], out / run_name(configs[0]))
    text.write_text("another text " * 400)
    with pytest.raises(GradlabError, match="another text"):
        make(configs, out, resume=True)


def test_an_attempt_that_is_still_written_is_left_alone(make_ramp: Make, tmp_path: Path) -> None:
    out, config = tmp_path / "study", make_ramp()
    (out / run_name(config)).mkdir(parents=True)
    write_plan(out, config)
    lock = FolderLock(out / run_name(config))
    failed = make([config], out, resume=True)
    lock.release()
    assert "another process is writing" in failed[run_name(config)]


def test_two_studies_never_write_one_folder(make_ramp: Make, tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    with pytest.raises(GradlabError, match="another process is writing"):
        make([make_ramp()], tmp_path)
    lock.release()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_processes_change_nothing_and_a_failure_takes_no_other_down(
    make_ramp: Make, tmp_path: Path
) -> None:
    configs = [
        make_ramp(),
        make_ramp(arch="normformer", model={"vocab_size": 64}),
        make_ramp(seed=1),
    ]
    updates: list[RunUpdate] = []
    failed = make(configs, tmp_path / "s", jobs=2, progress=updates.append)
    assert list(failed) == [run_name(configs[1])]
    rows = table(tmp_path / "s")
    assert list(rows.columns) == list(STABILITY.columns)
    assert rows["seed"].tolist() == [0, 1]
    assert rows["reason"].tolist() == ["completed", "completed"]
    assert rows["censored"].all()
    messages = {update.name: update.message for update in updates if update.state == "failed"}
    assert "vocabulary" in messages[run_name(configs[1])]
    for config in (configs[0], configs[2]):
        beside, alone = gradlab.load(tmp_path / "s" / run_name(config)), gradlab.train(config)
        assert beside.table("steps")["loss"].tolist() == alone.table("steps")["loss"].tolist()
        assert beside.verdict == alone.verdict


@pytest.mark.slow
@pytest.mark.long
def test_ctrl_c_keeps_what_there_is_and_resume_goes_on(make_ramp: Make, tmp_path: Path) -> None:
    configs = [make_ramp(), make_ramp(seed=1, steps=3000), make_ramp(seed=2)]

    def interrupt(update: News) -> None:
        assert isinstance(update, RunUpdate)
        if update.name == run_name(configs[1]) and update.progress and update.progress.step > 2:
            raise KeyboardInterrupt

    out = tmp_path / "study"
    with pytest.raises(KeyboardInterrupt):
        make(configs, out, progress=interrupt)
    assert multiprocessing.active_children() == []
    assert table(out)["reason"].tolist() == ["completed", "interrupted"]
    stopped = gradlab.load(out / run_name(configs[1]))
    assert stopped.status == "interrupted"
    assert stopped.table("steps")["step"].tolist() == list(range(stopped.verdict.step + 1))

    finished = (out / run_name(configs[0]) / "run.json").stat().st_mtime_ns
    make([configs[0], configs[2]], tmp_path / "fresh")
    (out / "study.json").unlink()
    write_plan(out, configs[0], configs[2])
    make([configs[0], configs[2]], out, resume=True)
    assert (out / run_name(configs[0]) / "run.json").stat().st_mtime_ns == finished
    fresh = (tmp_path / "fresh" / "stability.csv").read_text()
    assert (out / "stability.csv").read_text() == fresh


@pytest.mark.slow
def test_a_study_goes_on_in_the_middle_of_a_run(make_ramp: Make, tmp_path: Path) -> None:
    config = make_ramp(steps=150, precision=PrecisionConfig(name="fp32"))
    out, seen = tmp_path / "study", list[int]()

    def interrupt(update: News) -> None:
        if isinstance(update, RunUpdate) and update.progress and update.progress.step > 2:
            raise KeyboardInterrupt

    def note(update: News) -> None:
        if isinstance(update, RunUpdate) and update.progress:
            seen.append(update.progress.step)

    with pytest.raises(KeyboardInterrupt):
        make([config], out, progress=interrupt)
    run = out / run_name(config)
    (run / "mine.txt").write_text("precious")
    last = gradlab.load(run).verdict
    assert make([config], out, resume=True, progress=note) == {}
    assert last is not None
    assert last.step is not None
    assert min(seen) > last.step > 2
    assert (run / "mine.txt").read_text() == "precious"
    whole, parts = gradlab.train(config), gradlab.load(run)
    assert parts.verdict == whole.verdict
    for name in ("steps", "headroom"):
        pd.testing.assert_frame_equal(
            parts.table(name).drop(columns="seconds", errors="ignore"),
            whole.table(name).drop(columns="seconds", errors="ignore"),
        )


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL here")
def test_a_killed_worker_is_told_of_and_begun_again(make_ramp: Make, tmp_path: Path) -> None:
    long, short = make_ramp(steps=3000), make_ramp(seed=1)

    def kill(update: News) -> None:
        assert isinstance(update, RunUpdate)
        if update.name == run_name(long) and update.progress and update.progress.step > 2:
            for child in multiprocessing.active_children():
                os.kill(child.pid, signal.SIGKILL)

    failed = make([long, short], tmp_path / "s", progress=kill)
    assert list(failed) == [run_name(long)]
    assert table(tmp_path / "s")["seed"].tolist() == [1]
    assert gradlab.load(tmp_path / "s" / run_name(long)).status == "stopped"


def test_notes_stay_beside_the_runs(
    make_ramp: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "run_jobs", lambda jobs, **_: None)
    out = tmp_path / "s"
    assert not check_folder(out, resume=False)
    make([make_ramp()], out, notes={"seconds": {"pre-ln": 0.5}})
    assert load_study(out).notes == {"seconds": {"pre-ln": 0.5}}
    assert check_folder(out, resume=True)
    make([make_ramp()], out, resume=True, notes={"more": 1})
    assert load_study(out).notes == {"seconds": {"pre-ln": 0.5}, "more": 1}


def test_a_later_part_that_is_another_now_is_refused_before_the_first_is_made(
    tmp_path: Path, corpus_file: Path
) -> None:
    shared: dict[str, Any] = {"arch": "pre-ln", "seeds": 1, "corpus": str(corpus_file)}
    begun = League(factor=2.0, **shared).studies()["limit"]
    plan = {run_name(config): config for config in begun.configs()}
    (tmp_path / "limit").mkdir()
    claim(tmp_path / "limit", plan, resume=False, notes=begun.command().note())
    seen: list[News] = []
    with pytest.raises(GradlabError, match="holds another study"):
        run_study(League(factor=1.5, **shared), tmp_path, resume=True, progress=seen.append)
    assert not seen
    assert not (tmp_path / "grad-norms").exists()
