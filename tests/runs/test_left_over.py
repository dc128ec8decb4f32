"""What a process leaves that was killed as it wrote, and what stands where a table should."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from gradlab.config import RunConfig
from gradlab.errors import GradlabError
from gradlab.runs.files import write_whole
from gradlab.runs.study import load_study
from gradlab.runs.writer import RunWriter
from gradlab.studies.folder import check_folder, claim

KILLED = """
import os, signal, sys
from pathlib import Path
from gradlab.runs import files
def die(_): os.kill(os.getpid(), signal.SIGKILL)
files.os.fsync = die
files.write_whole(Path(sys.argv[1]), b"half")
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
@pytest.mark.parametrize("name", ["study.json", "run.json"])
def test_a_kill_as_a_file_is_written_leaves_a_free_folder(
    tmp_path: Path, config: RunConfig, name: str
) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / name)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert [path.suffix for path in tmp_path.iterdir()] == [".tmp"]
    if name == "run.json":
        RunWriter(tmp_path, config).finish("finished")
    else:
        assert not check_folder(tmp_path, resume=False)
        claim(tmp_path, {"a": config}, resume=False, notes={})
    assert (tmp_path / name).exists()


@pytest.mark.parametrize("name", ["a.tmp", ".study.json.tmp", "study.json.1.tmp", ".x.1.tmpp"])
def test_what_is_somebodys_is_not_passed_over(tmp_path: Path, config: RunConfig, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(GradlabError, match="choose another folder"):
        check_folder(tmp_path, resume=False)
    with pytest.raises(GradlabError, match="choose another folder"):
        RunWriter(tmp_path, config)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_table_that_is_a_pipe_is_refused(tmp_path: Path, config: RunConfig) -> None:
    claim(tmp_path, {"a": config}, resume=False, notes={})
    os.mkfifo(tmp_path / "runs.csv")
    with pytest.raises(GradlabError, match="a pipe"):
        _ = load_study(tmp_path).table


def test_two_threads_may_write_one_file(tmp_path: Path) -> None:
    def content() -> Iterator[bytes]:
        yield b"the first "
        other = Thread(target=write_whole, args=(tmp_path / "file", b"another"))
        other.start()
        other.join()
        assert (tmp_path / "file").read_bytes() == b"another"
        yield b"goes on"

    write_whole(tmp_path / "file", content())
    assert (tmp_path / "file").read_bytes() == b"the first goes on"
    assert len(list(tmp_path.iterdir())) == 1
