import os
import subprocess
import sys
from pathlib import Path

import pytest

from gradlab.errors import GradlabError
from gradlab.runs.lock import LOCK_NAME, FolderLock

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no flock on this platform")

HOLD = """
import sys
from pathlib import Path
from gradlab.runs.lock import FolderLock
lock = FolderLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    with pytest.raises(GradlabError, match=r"another process is writing .*: wait for it"):
        FolderLock(tmp_path)
    lock.release()
    lock.release()
    assert list(tmp_path.iterdir()) == []
    FolderLock(tmp_path).release()


def test_another_process_holds_it_until_it_dies(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(GradlabError, match="another process is writing"):
            FolderLock(tmp_path)
        holder.kill()
    assert (tmp_path / LOCK_NAME).exists()  # left by the kill, and held by nobody
    FolderLock(tmp_path).release()


def test_a_lock_on_a_file_that_was_just_removed_is_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    real_open = os.open

    def open_and_lose(path: Path, *arguments: int) -> int:
        descriptor = real_open(path, *arguments)
        if not opened:
            os.unlink(path)
        opened.append(descriptor)
        return descriptor

    monkeypatch.setattr(os, "open", open_and_lose)
    lock = FolderLock(tmp_path)
    assert len(opened) == 2
    with pytest.raises(GradlabError, match="another process"):
        FolderLock(tmp_path)
    lock.release()


def test_a_folder_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(GradlabError, match=r"none cannot be written \(No such file"):
        FolderLock(tmp_path / "none")
