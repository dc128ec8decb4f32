import errno
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.dataset as ds
import pytest

from gradlab.config import RunConfig
from gradlab.errors import GradlabError
from gradlab.runs.memory import MemoryWriter
from gradlab.runs.reader import load
from gradlab.runs.verdict import Verdict
from gradlab.runs.writer import RunWriter

Rows = Callable[..., dict[str, list[Any]]]


def files(path: Path) -> set[str]:
    return {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}


def test_a_run_is_a_document_and_parquet_parts(
    tmp_path: Path, config: RunConfig, steps: Rows
) -> None:
    path = tmp_path / "deep" / "run"
    writer = RunWriter(path, config, {"device": {"type": "cpu"}})
    assert load(path).status == "running"
    writer.write("steps", steps(0, 3))
    writer.write("steps", steps(0))
    writer.write("steps", steps(3, 5))
    verdict = Verdict(reason="loss_rise", step=4, lr=8e-4)
    writer.finish("finished", verdict, peak_memory=12)
    parts = sorted((path / "steps").iterdir())
    assert files(path) == {"run.json", *(f"steps/{part.name}" for part in parts)}
    for number, part in enumerate(parts):
        digest = hashlib.blake2b(part.read_bytes(), digest_size=8).hexdigest()
        assert part.name == f"part-{number:06d}.{digest}.parquet"
    assert len(parts) == 2
    run = writer.run()
    assert run.path == path
    assert run.verdict == verdict
    assert (run.info["device"], run.info["peak_memory"]) == ({"type": "cpu"}, 12)


def test_parts_are_read_without_gradlab(tmp_path: Path, config: RunConfig, steps: Rows) -> None:
    writer = RunWriter(tmp_path / "run", config)
    writer.write("steps", steps(0, 3))
    writer.write("steps", steps(3, 7))
    (tmp_path / "run/steps/.part-000002.parquet.1.tmp").write_bytes(b"half a fi")
    expected = pd.DataFrame(steps(0, 7))
    columns = ["step", "update", "lr", "loss", "skipped", "tokens"]
    for frame in (
        pd.read_parquet(tmp_path / "run" / "steps"),
        ds.dataset(tmp_path / "run" / "steps").to_table().to_pandas(),
    ):
        pd.testing.assert_frame_equal(frame[columns], expected[columns])


def test_a_folder_that_holds_something_is_refused_and_kept(
    tmp_path: Path, config: RunConfig
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(GradlabError, match="is not empty: choose another folder"):
        RunWriter(tmp_path, config)
    assert files(tmp_path) == {"notes.txt"}
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "run.json").write_text("{}")
    with pytest.raises(GradlabError, match="holds a run already: choose another folder, or remove"):
        RunWriter(tmp_path / "theirs", config)
    with pytest.raises(GradlabError, match="is a file: choose a folder"):
        RunWriter(tmp_path / "notes.txt", config)
    with pytest.raises(GradlabError, match="is a file, or below one: choose another folder"):
        RunWriter(tmp_path / "notes.txt" / "run", config)


def test_a_finished_run_is_not_written_again(tmp_path: Path, config: RunConfig) -> None:
    RunWriter(tmp_path / "run", config).finish("finished", Verdict(reason="completed"))
    with pytest.raises(GradlabError, match="holds a run that has finished"):
        RunWriter(tmp_path / "run", config)


@pytest.mark.parametrize("ours", [True, False])
def test_what_can_be_gone_on_with_is_a_run_of_the_built_in_loop(
    ours: bool, tmp_path: Path, config: RunConfig
) -> None:
    writer = RunWriter(tmp_path, config if ours else None)
    writer.finish("interrupted", Verdict(reason="interrupted"))
    way_out = "go on with it by `gradlab train .*`" if ours else "remove that one"
    with pytest.raises(GradlabError, match=f"holds a run already: .*, or {way_out}"):
        RunWriter(tmp_path, config)


@pytest.mark.skipif(sys.platform == "win32", reason="no flock on this platform")
def test_two_writers_never_share_a_folder(tmp_path: Path, config: RunConfig, steps: Rows) -> None:
    first = RunWriter(tmp_path, config)
    with pytest.raises(GradlabError, match="another process is writing"):
        RunWriter(tmp_path, config)
    first.write("steps", steps(0, 2))
    assert len(first.run().table("steps")) == 2


RACE = """
import sys
from pathlib import Path
from gradlab.config import RunConfig
from gradlab.errors import GradlabError
from gradlab.runs.writer import RunWriter
config = RunConfig.from_mapping(__import__("json").loads(sys.argv[2]))
sys.stdin.readline()
try:
    RunWriter(sys.argv[1], config, {"winner": sys.argv[3]})
except GradlabError as error:
    print("refused", error, flush=True)
else:
    print("won", flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no flock on this platform")
def test_of_two_writers_that_start_together_one_wins(tmp_path: Path, config: RunConfig) -> None:
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, tmp_path / "run", config.model_dump_json(), str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    said = []
    for racer in racers:
        assert racer.stdout is not None
        said.append(racer.stdout.readline().split()[0])
    winner = load(tmp_path / "run").info["winner"]
    for racer in racers:
        racer.communicate()
    assert sorted(said) == ["refused", "won"]
    assert said[int(winner)] == "won"


def test_an_end_that_cannot_be_written_gives_the_folder_up_and_keeps_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: RunConfig, steps: Rows
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    writer = RunWriter(tmp_path, config)
    writer.write("steps", steps(0, 2))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(GradlabError, match=r"no space left to write .*run\.json"):
            writer.finish("finished", Verdict(reason="completed"))
    run = load(tmp_path)
    assert (run.status, len(run.table("steps"))) == ("stopped", 2)
    assert ".lock" not in files(tmp_path)


def test_rows_that_are_none_leave_the_run_as_it_was(
    tmp_path: Path, config: RunConfig, steps: Rows
) -> None:
    writer = RunWriter(tmp_path, config)
    writer.write("steps", steps(0, 2))
    with pytest.raises(GradlabError, match="need the column 'seconds'"):
        writer.write("steps", {n: v for n, v in steps(2, 4).items() if n != "seconds"})
    with pytest.raises(GradlabError, match="unknown table"):
        writer.write("step", steps(2, 4))
    assert writer.run().table("steps")["step"].tolist() == [0, 1]


def test_memory_gives_the_same_run_as_a_folder(
    tmp_path: Path, config: RunConfig, steps: Rows
) -> None:
    runs = []
    for writer in (
        RunWriter(tmp_path, config, {"a": float("nan")}),
        MemoryWriter(config, {"a": 1}),
    ):
        writer.write("steps", steps(0, 2))
        before = writer.run()
        writer.write("steps", steps(2, 5))
        writer.finish("interrupted", Verdict(reason="interrupted", step=4), a=(1, 2))
        assert before.status == "running"
        runs.append(writer.run())
    folder, memory = runs
    pd.testing.assert_frame_equal(folder.table("steps"), memory.table("steps"))
    pd.testing.assert_frame_equal(
        folder.table("headroom", ["step", "layer"]), memory.table("headroom", ["step", "layer"])
    )
    times = {"started", "ended"}
    assert {k: v for k, v in folder.info.items() if k not in times} == {
        k: v for k, v in memory.info.items() if k not in times
    }
    assert (folder.config, folder.verdict, folder.tables) == (
        memory.config,
        memory.verdict,
        memory.tables,
    )
    assert memory.path is None


def test_a_run_in_memory_does_not_change_after_it_was_taken(config: RunConfig, steps: Rows) -> None:
    writer = MemoryWriter(config)
    writer.write("steps", steps(0, 2))
    run = writer.run()
    writer.write("steps", steps(2, 4))
    assert len(run.table("steps")) == 2


@pytest.mark.skipif(sys.platform == "win32" or os.name != "posix", reason="POSIX permissions")
def test_a_folder_without_write_permission_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: RunConfig
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:  # root may write anywhere, so the system's no is played
        patch.setattr(Path, "mkdir", refuse)
        with pytest.raises(GradlabError, match=r"run cannot be written \(Permission denied\)"):
            RunWriter(tmp_path / "run", config)
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with pytest.raises(GradlabError, match=r"cannot be written \(Permission denied\)"):
            RunWriter(tmp_path, config)
