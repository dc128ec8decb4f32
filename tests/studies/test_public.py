"""Studies from Python, as a notebook has them."""

from pathlib import Path

import pytest

import gradlab
from gradlab.config import RunConfig
from gradlab.settings import OneRun
from gradlab.studies import run as run_module
from gradlab.studies.news import News, Planned, RunUpdate
from gradlab.training.loop import train

SMALL = {"n_layers": 1, "max_seq_len": 8, "batch_size": 2, "device": "cpu"}


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are trained here: a new process imports torch for seconds."""

    def run_jobs(jobs, *, limit, on_progress, on_end):  # type: ignore[no-untyped-def]
        for job in jobs:
            try:
                train(job.config, job.path)
            except ZeroDivisionError as error:
                on_end(job.name, str(error))
            else:
                on_end(job.name, None)

    monkeypatch.setattr(run_module, "run_jobs", run_jobs)


@pytest.mark.usefixtures("in_this_process")
def test_a_study_is_made_gone_on_with_and_read_back(tmp_path: Path, corpus_file: Path) -> None:
    study = gradlab.studies.Stability(
        arch=["pre-ln", "normformer"],
        size="nano-d16",
        lr_step=2e-4,
        steps=3,
        seeds=1,
        corpus=str(corpus_file),
        **SMALL,
    )
    seen: list[News] = []
    result = gradlab.run_study(study, tmp_path / "s", jobs=1, progress=seen.append)
    assert result.table[["arch", "seed", "reason"]].values.tolist() == [
        ["pre-ln", 0, "completed"],
        ["normformer", 0, "completed"],
    ]
    assert [run.config for run in result.runs] == study.configs()
    assert not result.failed
    assert isinstance(seen[0], Planned)
    assert [news.state for news in seen[1:] if isinstance(news, RunUpdate)] == ["finished"] * 2
    with pytest.raises(gradlab.GradlabError, match="--resume"):
        gradlab.run_study(study, tmp_path / "s")

    more = study.replace(seeds=2)
    assert len(gradlab.run_study(more, tmp_path / "s", resume=True).runs) == 4
    read = gradlab.load_study(tmp_path / "s")
    assert read.command == more.command()
    assert read.table["seed"].tolist() == [0, 0, 1, 1]


def test_a_run_in_the_words_of_the_command(corpus_file: Path) -> None:
    run = gradlab.train(
        "normformer", "nano-d16", lr=1e-3, steps=2, warmup=1, corpus=str(corpus_file), **SMALL
    )
    assert isinstance(run.config, RunConfig)
    assert run.config.arch == "normformer"
    assert run.config.model == gradlab.model_config(
        "normformer", run.config.size, n_layers=1, max_seq_len=8
    )
    again = gradlab.train(run.config)
    assert again.table("steps")["loss"].tolist() == run.table("steps")["loss"].tolist()
    with pytest.raises(gradlab.GradlabError, match="says everything"):
        gradlab.train(run.config, steps=3)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"stpes": 3}, "did you mean 'steps'"),
        ({"qkv_norn": True}, "did you mean 'qkv_norm'"),
        ({"size": "nanno"}, "did you mean 'nano'"),
        ({"norm": "groupnorm"}, "unknown norm 'groupnorm'"),
        ({"lr": True}, "lr = true: give a value, not true or false"),
        ({"steps": True}, "steps = true"),
        ({"dropout": True}, "dropout = true"),
        ({"precision": "fp17"}, "did you mean 'fp16'"),
    ],
)
def test_a_mistake_is_one_sentence(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(gradlab.GradlabError, match=sentence):
        OneRun(**{"device": "cpu", **settings}).config()  # type: ignore[arg-type]


@pytest.mark.parametrize("given", [3, None, gradlab.studies.Stability])
def test_what_is_no_study_is_refused(given: object, tmp_path: Path) -> None:
    with pytest.raises(gradlab.GradlabError, match="is no study: give one, as"):
        gradlab.run_study(given, tmp_path / "s")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["arch", "size", "lr_step"])
def test_a_study_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(gradlab.GradlabError, match=rf"{name} = \[\]: name at least one\."):
        gradlab.studies.Stability(**{name: []})


@pytest.mark.usefixtures("in_this_process")
def test_the_home_folder_is_meant_wherever_a_folder_is_given(
    tmp_path: Path, corpus_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    study = gradlab.studies.Stability(
        arch="pre-ln", size="nano-d16", steps=3, seeds=1, corpus=str(corpus_file), **SMALL
    )
    made = gradlab.run_study(study, "~/s", jobs=1)
    assert made.folder == tmp_path / "home" / "s"
    assert str(gradlab.inspect("~/s")) == str(gradlab.inspect(made))
    assert gradlab.draw("~/s").keys() == gradlab.draw(made).keys()
    assert list(gradlab.report(["~/s"], out="~/page.html").runs) == made.names
    assert (tmp_path / "home" / "page.html").exists()
    assert not (tmp_path / "~").exists()
