"""`gradlab.report` in Python."""

import html
import json
from pathlib import Path

import pytest
import torch
from made_up_runs import nano

import gradlab
from gradlab.config import RecordConfig
from gradlab.errors import GradlabError
from gradlab.runs.memory import MemoryWriter
from gradlab.runs.writer import RunWriter

CONFIG = nano(record=RecordConfig(probes=()))


def test_a_run_by_its_folder_by_itself_and_from_memory(tmp_path: Path) -> None:
    info = {"model": "GPT2", "tables": ["steps"]}
    RunWriter(tmp_path / "run", None, info).finish("finished")
    kept = MemoryWriter(None, info).run()
    for source in (tmp_path / "run", str(tmp_path / "run"), gradlab.load(tmp_path / "run"), kept):
        out = tmp_path / "page.html"
        assert len(gradlab.report(source, out=out, force=True).runs) == 1
        assert "GPT2" in out.read_text()
    assert len(gradlab.report([tmp_path / "run", kept], out=tmp_path / "two.html").runs) == 2
    with pytest.raises(GradlabError, match="is there already"):
        gradlab.report(kept, out=tmp_path / "page.html")


def test_probes_stand_for_what_they_have_recorded(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradlab.attach(model, optimizer) as probes:
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        assert str(gradlab.inspect(probes)) == str(gradlab.inspect(probes.run()))
    assert gradlab.draw(probes).keys() == gradlab.draw(probes.run()).keys()
    assert len(gradlab.report(probes, out=tmp_path / "page.html").runs) == 1


WRONG = [
    (("verdict",), "x"),
    (("verdict",), {"reason": "x"}),
    (("verdict",), {"reason": "completed", "step": 10**30}),
    (("tables",), None),
    (("tables",), {"steps": 1}),
    (("device",), "cpu"),
    (("device", "type"), 3),
    (("corpus",), ["x"]),
    (("corpus", "sha256"), None),
    (("versions",), "1.0"),
    (("config",), "x"),
    (("config", "seed"), 10**30),
    (("config", "arch"), None),
    (("params",), "many"),
    (("status",), 1),
]


@pytest.mark.parametrize(("place", "value"), WRONG)
def test_one_damaged_run_costs_itself_only(
    tmp_path: Path, place: tuple[str, ...], value: object
) -> None:
    RunWriter(tmp_path / "good", None, {"model": "GPT2", "tables": ["steps"]}).finish("finished")
    info = {"device": {"type": "cpu"}, "corpus": {"name": "text", "sha256": "ab"}, "params": 9}
    RunWriter(tmp_path / "bad", CONFIG, info).finish("finished")
    file = tmp_path / "bad" / "run.json"
    document = json.loads(file.read_text())
    inside = document
    for name in place[:-1]:
        inside = inside[name]
    inside[place[-1]] = value
    file.write_text(json.dumps(document))
    out = tmp_path / "page.html"
    found = gradlab.report([tmp_path / "good", tmp_path / "bad"], out=out)
    assert "good" in found.runs
    assert "bad" in found.runs or any(str(file) in note for note in found.notes)
    assert all(note in html.unescape(out.read_text()) for note in found.notes)
    if "bad" not in found.runs:
        with pytest.raises(GradlabError, match="bad"):
            gradlab.inspect(tmp_path / "bad")
