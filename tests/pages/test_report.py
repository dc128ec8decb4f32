"""`gradlab.report` in Python."""

from pathlib import Path

import pytest

import gradlab
from gradlab.errors import GradlabError
from gradlab.runs.memory import MemoryWriter
from gradlab.runs.writer import RunWriter


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
