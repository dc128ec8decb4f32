"""The studies of the claims, from Python."""

from pathlib import Path
from typing import Any

import pytest

import gradlab
from gradlab.errors import ConfigError
from gradlab.runs.study import StudySet
from gradlab.studies import Claims
from gradlab.studies import run as run_module
from gradlab.studies.claims import STUDIES
from gradlab.studies.news import News, StudyBegun
from gradlab.training.loop import train

SMALL: dict[str, Any] = {"n_layers": 2, "max_seq_len": 8, "batch_size": 2, "device": "cpu"}
FEW_STEPS: dict[str, dict[str, Any]] = {
    "gradients": {"size": "nano-d16", "steps": 6, "warmup": 2, "average": 2},
    "stability": {"size": "nano-d16", "lr_step": 500, "steps": 20},
}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, corpus_file: Path) -> None:
    """Two of the studies in a few steps, whose runs are trained in this process."""
    for name, few in FEW_STEPS.items():
        study = STUDIES[name].replace(**few, **SMALL, corpus=str(corpus_file))
        monkeypatch.setitem(STUDIES, name, study)

    def run_jobs(jobs, *, limit, on_progress, on_end):  # type: ignore[no-untyped-def]
        for job in jobs:
            train(job.config, job.path)
            on_end(job.name, None)

    monkeypatch.setattr(run_module, "run_jobs", run_jobs)


def test_at_a_width_all_studies_are_at_nano() -> None:
    studies = Claims(width=768, seeds=2).studies()
    assert list(studies) == ["gradients", "scales", "stability", "ablation"]
    configs = {name: study.configs() for name, study in studies.items()}
    for runs in configs.values():
        assert {run.size for run in runs} == {"nano-d768"}
        assert {run.model.d_model for run in runs} == {768}
        assert {run.seed for run in runs} == {0, 1}
    gradients = configs["gradients"][0]
    assert (gradients.steps, gradients.schedule.warmup_steps) == (250, 100)
    assert configs["stability"][0].schedule.lr_step == 2e-4
    assert Claims(width=768).folder() == Path("studies/claims-d768")
    assert Claims(width=768, only="scales").command().line == (
        "gradlab claims --only scales --width 768"
    )
    # By its own command, as docs/claims.md has it: the same runs.
    alone = gradlab.studies.Gradients(size="nano-d768", steps=250, seeds=2)
    assert alone.configs() == configs["gradients"]


def test_of_masked_models_all_runs_are_masked_in_a_folder_of_their_own() -> None:
    claims = Claims(objective="masked", seeds=1)
    for name, study in claims.studies().items():
        plain = Claims(seeds=1).studies()[name].configs()
        for run, causal in zip(study.configs(), plain, strict=True):
            model = causal.model.replace(objective="masked", vocab_size=257)
            assert run == causal.replace(model=model)
    assert claims.folder() == Path("studies/claims-masked")
    assert Claims(objective="masked", width=64).folder() == Path("studies/claims-masked-d64")
    line = claims.studies()["stability"].command().line
    assert line == "gradlab run-stability --lr-step 0.0002 --seeds 1 --objective masked"
    assert claims.studies()["ablation"].folder() == Path("studies/ablation-nano-masked")


def test_without_a_width_each_has_its_own_size() -> None:
    sizes = {name: study.configs()[0].size for name, study in Claims().studies().items()}
    assert sizes == {
        "gradients": "micro",
        "scales": "nano",
        "stability": "nano",
        "ablation": "nano",
    }


@pytest.mark.usefixtures("small")
@pytest.mark.long
def test_they_are_made_read_said_and_drawn_like_any_other(tmp_path: Path) -> None:
    claims = Claims(only=["gradients", "stability"], seeds=1)
    out = tmp_path / "c"
    seen: list[News] = []
    result = gradlab.run_study(claims, out, jobs=1, progress=seen.append)
    lines = [news.line for news in seen if isinstance(news, StudyBegun)]
    assert [line.split()[1] for line in lines] == ["grad-norms", "run-stability"]
    assert [line.split(" --out ")[1] for line in lines] == [str(out / name) for name in claims.only]
    read = gradlab.load_study(out)
    for study in (result, read):
        assert isinstance(study, StudySet)
        assert list(study.studies) == ["gradients", "stability"]
        assert study.names == [f"{run.path.parent.name}/{run.path.name}" for run in study.runs]
        assert list(study.configs.values()) == [run.config for run in study.runs]
        assert study.table["study"].tolist() == ["gradients"] * 3 + ["stability"] * 3
        assert study.table["arch"].tolist() == [run.config.arch for run in study.runs]
        assert not study.failed

    said = gradlab.inspect(out).sentences
    assert len(said) == 4 + 2 + 1
    assert said[0].startswith("Post-LN's later layers have the larger gradients (figure 3): not")
    assert said[-1] == "Not begun: scales, ablation."
    assert gradlab.inspect(result).sentences == said
    assert {"gradients_fc2", "lr_at_break"} <= set(gradlab.draw(result))

    with pytest.raises(gradlab.GradlabError, match="--resume"):
        gradlab.run_study(claims, out)
    again = gradlab.run_study(claims, out, resume=True)
    assert again.names == result.names


@pytest.mark.usefixtures("small")
def test_nothing_is_trained_before_all_is_known_to_fit(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="gradients"):
        gradlab.run_study(Claims(only=["gradient"]), tmp_path / "c")
    with pytest.raises(gradlab.GradlabError):
        gradlab.run_study(Claims(width=7), tmp_path / "c")
    (tmp_path / "c" / "ablation").mkdir(parents=True)
    (tmp_path / "c" / "ablation" / "mine.txt").write_text("")
    with pytest.raises(gradlab.GradlabError, match="not a study"):
        gradlab.run_study(Claims(), tmp_path / "c")
    assert not (tmp_path / "c" / "gradients").exists()


def test_a_study_is_no_place_for_them(tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text('{"runs": {}}')
    with pytest.raises(gradlab.GradlabError, match="another folder"):
        gradlab.run_study(Claims(), tmp_path)
