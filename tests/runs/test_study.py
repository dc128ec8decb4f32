import json
from pathlib import Path

import pytest

from gradlab.config import RunConfig
from gradlab.errors import GradlabError
from gradlab.runs.command import Command
from gradlab.runs.lock import LOCK_NAME
from gradlab.runs.study import StudyRecord, find_study, load_study, run_name
from gradlab.runs.verdict import Verdict
from gradlab.runs.writer import RunWriter


@pytest.fixture
def study(tmp_path: Path, config: RunConfig) -> StudyRecord:
    """Three runs planned, of which one finished and one failed."""
    configs = [config.replace(seed=seed) for seed in range(3)]
    plan = {run_name(one): one.model_dump(mode="json") for one in configs}
    command = Command("run-stability", {"arch": ["normformer"], "lr_step": [2e-4]})
    document = {"runs": plan, **command.note(), "step_clock": "CPU time"}
    (tmp_path / "study.json").write_text(json.dumps(document))
    for one, status in zip(configs, ("finished", "error"), strict=False):
        writer = RunWriter(tmp_path / run_name(one), one)
        error = {"error": "the disk is full."} if status == "error" else {}
        writer.finish(status, Verdict(reason="completed", step=8), **error)
    return load_study(tmp_path)


def test_a_study_is_what_its_folder_says(study: StudyRecord, config: RunConfig) -> None:
    names = [f"nano_normformer_ramp0.0002_seed{seed}" for seed in range(3)]
    assert study.names == names
    assert study.configs == {name: config.replace(seed=seed) for seed, name in enumerate(names)}
    assert [run.config.seed for run in study.runs] == [0, 1]
    assert study.failed == {names[1]: "the disk is full."}
    assert study.command is not None
    assert study.command.line == "gradlab run-stability --arch normformer --lr-step 0.0002"
    assert set(study.notes) == {"command", "step_clock"}
    assert {path.name for path in study.folder.iterdir()} - {LOCK_NAME} == {
        "study.json", *names[:2]
    }  # fmt: skip


def test_the_table_is_there_once_a_run_has_ended(study: StudyRecord) -> None:
    with pytest.raises(GradlabError, match="has no table: no run of the study has ended yet"):
        study.table  # noqa: B018
    (study.folder / "runs.csv").write_text("arch,seed\npre-ln,0\n")
    assert study.table.to_dict("records") == [{"arch": "pre-ln", "seed": 0}]


def test_a_folder_without_a_study(tmp_path: Path) -> None:
    assert find_study(tmp_path) is None
    with pytest.raises(GradlabError, match=r"there is no study in .*: it has no study\.json"):
        load_study(tmp_path)
    with pytest.raises(GradlabError, match=r"there is no study in .*: it is a file"):
        load_study(__file__)


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", "{}", '{"runs": 3}', '{"runs": null}', "[" * 100_000, "\udcff"]
)
def test_a_damaged_file_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "study.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(GradlabError, match=r"study\.json is damaged") as error:
        load_study(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("config", [None, 3, [], {}, {"arch": "pre-ln"}])
def test_a_run_that_cannot_be_read_spoils_the_configs_alone(tmp_path: Path, config: object) -> None:
    (tmp_path / "study.json").write_text(json.dumps({"runs": {"mine": config}}))
    study = load_study(tmp_path)
    assert (study.names, study.runs, study.command) == (["mine"], [], None)
    with pytest.raises(GradlabError, match=r"study\.json is damaged"):
        study.configs  # noqa: B018


@pytest.mark.parametrize("note", [None, "ablate", {"name": "ablate"}, {"name": 3, "options": {}}])
def test_a_command_that_cannot_be_read_is_none(tmp_path: Path, note: object) -> None:
    (tmp_path / "study.json").write_text(json.dumps({"runs": {}, "command": note}))
    assert load_study(tmp_path).command is None
