import contextlib
import math
import signal
import subprocess
import sys
import time
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from made_up_runs import write_rows
from typer.testing import CliRunner

from gradlab.cli.main import app
from gradlab.cli.terminal.follow import follow
from gradlab.errors import GradlabError
from gradlab.pages.screen import Screen
from gradlab.runs.lock import LOCK_NAME
from gradlab.runs.writer import RunWriter

TABLES = ("steps", "headroom", "overflows", "faults")


def begin(folder: Path) -> RunWriter:
    return RunWriter(folder, None, {"model": "GPT2", "tables": list(TABLES)})


def write_steps(writer: RunWriter, *steps: int, skipped: tuple[int, ...] = ()) -> None:
    losses = [3.0 - step / 100 for step in steps]
    course = {"step": steps, "lr": 0.1, "loss": losses, "loss_scale": 8.0, "tokens": steps}
    at = {"skipped": [s in skipped for s in steps], "seconds": [float(step) for step in steps]}
    write_rows(writer, "steps", **course, **at)


def write_overflow(writer: RunWriter, step: int, **given: Any) -> None:
    where = {"step": step, "site": "h.1.attn", "layer": 1, "op": "attn", "numel": 9}
    write_rows(writer, "overflows", **where, skipped=True, **given)


def write_headroom(writer: RunWriter, step: int, bits: float) -> None:
    write_rows(writer, "headroom", step=step, site="h.0.mlp", layer=0, op="mlp", headroom_bits=bits)


class Clock:
    """A loop that goes on while its follower waits: a piece of it at each wait."""

    def __init__(self, *pieces: Any) -> None:
        self.pieces, self.now = list(pieces), 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.pieces.pop(0)()

    def __call__(self) -> float:
        return self.now


def test_it_goes_along_until_the_run_ends(tmp_path: Path) -> None:
    writer = begin(tmp_path / "run")
    write_steps(writer, 0, 1)

    def second() -> None:
        write_steps(writer, 2, 3, skipped=(2, 3))
        write_headroom(writer, 3, 1.5)
        write_overflow(writer, 3)

    def late() -> None:
        write_steps(writer, 4)
        write_overflow(writer, 2, producer="h.0.mlp")

    clock = Clock(second, late, lambda: writer.finish("finished"))
    text = StringIO()
    run = follow(
        tmp_path / "run", Screen(file=text, width=200), wait=20.0, sleep=clock.sleep, clock=clock
    )
    assert run.status == "finished"
    assert not clock.pieces
    lines = text.getvalue().splitlines()
    assert lines[0] == "step 1  lr 0.1  loss 2.99  loss scale 8"
    assert lines[1] == "step 2: skipped, as a gradient was not finite"
    assert lines[2].startswith("step 3: h.1.attn: inf, forward")
    assert lines[3] == "step 3  lr 0.1  loss 2.97  loss scale 8  headroom 1.5 bits at h.0.mlp"
    assert lines[4].startswith("step 2: h.0.mlp: inf")  # its cause came later
    assert lines[5].startswith("step 4")
    assert len(lines) == 6


def test_many_events_at_once_are_few_lines(tmp_path: Path) -> None:
    writer = begin(tmp_path / "run")
    steps = tuple(range(50))
    write_steps(writer, *steps, skipped=steps)
    write_headroom(writer, 49, -math.inf)
    text = StringIO()
    clock = Clock(lambda: writer.finish("finished"))
    follow(tmp_path / "run", Screen(file=text, width=200), sleep=clock.sleep, clock=clock)
    lines = text.getvalue().splitlines()
    assert len(lines) == 7
    assert lines[5] == "and 45 more events"
    assert lines[6].endswith("overflow at h.0.mlp")


def test_a_run_that_has_ended_is_inspected_at_once(tmp_path: Path) -> None:
    writer = begin(tmp_path / "run")
    write_steps(writer, 0, 1)
    writer.finish("finished")
    words = ["inspect", str(tmp_path / "run")]
    told = CliRunner().invoke(app, [*words, "--follow"])
    assert told.exit_code == 0
    assert told.output == CliRunner().invoke(app, words).output


def test_no_run_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes").touch()
    for name in ("other", "other/notes", "other/run.json"):
        with pytest.raises(GradlabError, match="no run"):
            follow(tmp_path / name, Screen(file=StringIO()))


@pytest.mark.parametrize(
    "before", ["nothing", "an empty folder", "its lock", "a file half written"]
)
@pytest.mark.parametrize("name", ["run", "run/run.json"])
def test_a_run_that_is_not_there_yet_is_waited_for(tmp_path: Path, name: str, before: str) -> None:
    folder, text = tmp_path / "run", StringIO()
    if before != "nothing":
        folder.mkdir()
    if before == "its lock":
        (folder / LOCK_NAME).touch()
    if before == "a file half written":
        (folder / ".run.json.123.tmp").touch()

    writers: list[RunWriter] = []

    def start() -> None:
        writers.append(begin(folder))
        write_steps(writers[0], 0, 1)

    clock = Clock(lambda: folder.mkdir(exist_ok=True), start, lambda: writers[0].finish("finished"))
    run = follow(tmp_path / name, Screen(file=text, width=200), sleep=clock.sleep, clock=clock)
    assert run.status == "finished"
    first, second = text.getvalue().splitlines()
    assert first.startswith(f"There is no run {tmp_path / name} yet: waiting for it.")
    assert second.startswith("step 1")


def following(folder: Path) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "gradlab.cli", "inspect", str(folder), "--follow"]
    pipe = subprocess.PIPE
    # Where the tests run in a shell's background, Ctrl-C is ignored, and that is inherited.
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True, preexec_fn=heard)


@pytest.mark.slow
def test_of_another_process(tmp_path: Path) -> None:
    """Ctrl-C ends the following alone; a run whose process is killed ends it too."""
    folder = tmp_path / "run"
    code = (
        "import sys, time; sys.path += sys.argv[2:]; from pathlib import Path\n"
        "from test_follow import begin, write_steps\n"
        "writer = begin(Path(sys.argv[1])); write_steps(writer, 0, 1); time.sleep(100)"
    )
    here = Path(__file__).parent
    loop = subprocess.Popen([sys.executable, "-c", code, folder, here, here.parent / "shared"])
    try:
        while not (folder / "steps").exists():
            assert loop.poll() is None
            time.sleep(0.05)
        interrupted, left = following(folder), following(folder)
        for watcher in (interrupted, left):
            assert watcher.stdout is not None
            assert watcher.stdout.readline().startswith("step 1  ")
        interrupted.send_signal(signal.SIGINT)
        _, err = interrupted.communicate(timeout=60)
        assert interrupted.returncode == 130
        assert "stopped following" in err
        assert "Traceback" not in err
        assert loop.poll() is left.poll() is None
        loop.kill()
        loop.wait()
        out, err = left.communicate(timeout=60)
        assert left.returncode == 0, err
        assert "run" in out
    finally:
        with contextlib.suppress(ProcessLookupError):
            loop.kill()
        loop.wait()
