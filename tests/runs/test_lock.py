import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gradlab.errors import GradlabError
from gradlab.runs.lock import LOCK_NAME, FolderLock, is_held

HOLD = """
import sys
from pathlib import Path
from gradlab.runs.lock import FolderLock
lock = FolderLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""

CHILD = """
import os, time
ready, running = os.pipe()
if not os.fork():
    os.write(running, b".")
    time.sleep(60)
os.read(ready, 1)
"""

HOLD_AND_FORK = HOLD.replace("print(", f"{CHILD}print(")


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    with pytest.raises(GradlabError, match=r"another process is writing .*: wait for it"):
        FolderLock(tmp_path)
    lock.release()
    lock.release()
    assert list(tmp_path.iterdir()) == []
    FolderLock(tmp_path).release()


@pytest.mark.skipif(sys.platform == "win32", reason="whether it is held cannot be told there")
def test_another_process_holds_it_until_it_dies(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert is_held(tmp_path)
        with pytest.raises(GradlabError, match="another process is writing"):
            FolderLock(tmp_path)
        holder.kill()
    assert (tmp_path / LOCK_NAME).exists()  # left by the kill, and held by nobody
    assert not is_held(tmp_path)
    FolderLock(tmp_path).release()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_child_that_outlives_its_parent_does_not_hold_it(tmp_path: Path) -> None:
    """As a data loader's worker does, for a moment, after its training was killed."""
    command = [sys.executable, "-W", "ignore", "-c", HOLD_AND_FORK, str(tmp_path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        holder.kill()
        holder.wait()
        held = is_held(tmp_path)
        os.killpg(holder.pid, 9)
    assert not held


@pytest.mark.skipif(sys.platform == "win32", reason="links need privileges there")
def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    folder.mkdir()
    for there in (False, True):
        (folder / LOCK_NAME).symlink_to(elsewhere)
        with pytest.raises(GradlabError, match="cannot be written"):
            FolderLock(folder)
        assert not is_held(folder)
        assert elsewhere.exists() == there
        (folder / LOCK_NAME).unlink()
        elsewhere.write_text("mine")
    assert elsewhere.read_text() == "mine"


def test_looking_whether_it_is_held_does_not_keep_a_writer_out(tmp_path: Path) -> None:
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            is_held(tmp_path)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        for _ in range(50):
            FolderLock(tmp_path).release()
    finally:
        over.set()
        looking.join()


def test_holders_follow_each_other_one_at_a_time(tmp_path: Path) -> None:
    """Six threads take the lock, which is removed each time, and count while they have it."""
    inside, most, taken = 0, 0, 0

    def take() -> None:
        nonlocal inside, most, taken
        for _ in range(40):
            try:
                lock = FolderLock(tmp_path)
            except GradlabError:
                continue
            inside += 1
            most = max(most, inside)
            taken += 1
            inside -= 1
            lock.release()

    threads = [threading.Thread(target=take) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert taken > 40


def test_a_folder_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(GradlabError, match=r"none cannot be written \(No such file"):
        FolderLock(tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="there is no flock there")
@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """As NFS without its lock daemon: whether a run is being written cannot be told there."""

    def no_locks(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", no_locks)
    lock = FolderLock(tmp_path)
    assert is_held(tmp_path)
    lock.release()
    FolderLock(tmp_path).release()
