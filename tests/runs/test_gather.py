import json
from pathlib import Path

import pytest

from gradlab.errors import GradlabError
from gradlab.runs.gather import gather
from gradlab.runs.memory import MemoryWriter
from gradlab.runs.reader import Run, load
from gradlab.runs.study import load_study
from gradlab.runs.writer import RunWriter


def record(folder: Path) -> Path:
    RunWriter(folder, None, {"model": "Mine", "tables": ["steps"]}).finish("finished")
    return folder


def in_memory() -> Run:
    return MemoryWriter(None, {"model": "Mine", "tables": ["steps"]}).run()


def test_a_run_named_in_several_ways_comes_once(tmp_path: Path) -> None:
    folder = record(tmp_path / "run")
    found = gather([folder, str(folder), folder / "run.json", load(folder), tmp_path])
    assert list(found.runs) == ["run"]
    assert not found.notes


def test_a_study_gives_its_runs_in_its_own_order(tmp_path: Path) -> None:
    for name in ("a", "b"):
        record(tmp_path / "study" / name)
    plan = {"runs": {"b": {}, "c": {}, "a": {}}}
    (tmp_path / "study" / "study.json").write_text(json.dumps(plan))
    for source in (tmp_path / "study", load_study(tmp_path / "study")):
        found = gather([source])
        assert list(found.runs) == ["b", "a"]
        assert found.notes == (f"1 of the 3 runs of {tmp_path / 'study'} has not begun: c.",)


def test_runs_in_memory_are_told_apart(tmp_path: Path) -> None:
    one, other = in_memory(), in_memory()
    found = gather([one, record(tmp_path / "run"), other])
    assert len(found.runs) == 3
    assert [run for run in found.runs.values() if run.path is None] == [one, other]


def test_what_cannot_be_read_is_noted_once_and_the_rest_is_there(tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "run.json").write_text("{")
    found = gather([tmp_path / "bad", record(tmp_path / "run"), tmp_path / "bad"])
    assert list(found.runs) == ["run"]
    (note,) = found.notes
    assert "bad" in note
    with pytest.raises(GradlabError, match="is damaged"):
        gather([tmp_path / "bad"])
    with pytest.raises(GradlabError, match="name at least one"):
        gather([])


def test_a_study_of_which_nothing_has_begun_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text(json.dumps({"runs": {"a": {}, "b": {}}}))
    with pytest.raises(GradlabError, match=r"2 of the 2 runs of .* have not begun: a and 1 more"):
        gather([tmp_path])
    (tmp_path / "study.json").write_text(json.dumps({"runs": {}}))
    with pytest.raises(GradlabError, match=r"no run of .* is known yet"):
        gather([tmp_path])
