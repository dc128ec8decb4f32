"""One of two processes dies, fails, or is told to stop: both end, one says why."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

import gradlab

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo"),
    pytest.mark.skipif(sys.platform == "win32", reason="needs signals"),
]

AT, STEPS = 5, 12
OPTIONS = "--steps 12 --batch-size 4 --max-seq-len 16 --n-layers 2 --precision fp32 --device cpu"


def fail(how: str) -> None:
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "memory":
        raise MemoryError
    if how == "stopped":
        os.kill(os.getpid(), signal.SIGTERM)


def work(how: str, *arguments: str) -> None:
    """`gradlab train`, in the second process with something that happens at a step."""
    from gradlab.cli.start import run
    from gradlab.training import loop

    step = loop.training_step
    taken = 0

    def failing(*args: Any, **kwargs: Any) -> Any:
        nonlocal taken
        taken += 1
        if taken == AT + 1 and os.environ["RANK"] == "1":
            fail(how)
        return step(*args, **kwargs)

    loop.training_step = failing
    sys.argv = ["gradlab", "train", *arguments]
    run()


def ends(how: str, out: Path, corpus: Path, *more: str) -> list[tuple[int, str, str]]:
    """Exit status, stdout and stderr of each process."""
    from two_processes import ended, free_port  # which the processes do without

    words = [*OPTIONS.split(), "--corpus", str(corpus), "--out", str(out), *more]
    told = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    told |= {"OMP_NUM_THREADS": "1"}
    environments = [told | {"RANK": rank, "LOCAL_RANK": rank} for rank in "01"]
    return ended(__file__, [how, *words], environments)


def test_one_that_is_killed_ends_both(tmp_path: Path, corpus_file: Path) -> None:
    (status, _, said), (killed, _, _) = ends("killed", tmp_path / "run", corpus_file)
    assert (status, killed) == (2, -signal.SIGKILL)
    assert said.splitlines()[-1] == (
        "error: one of the 2 processes is gone, killed or cut off: the others have ended with it. "
        "--resume goes on from the newest checkpoint."
    )
    assert said.count("error:") == 1
    run = gradlab.load(tmp_path / "run")
    assert run.status == "error"
    assert run.table("steps")["step"].tolist() == list(range(AT))


@pytest.mark.long
def test_one_that_fails_tells_and_the_other_is_silent(tmp_path: Path, corpus_file: Path) -> None:
    (first, *shown), (second, *other) = ends("memory", tmp_path / "run", corpus_file)
    assert (first, second) == (2, 2)
    said = "".join(shown + other)
    assert said.count("error:") == 1
    assert "cpu ran out of memory: choose a smaller batch_size" in said
    run = gradlab.load(tmp_path / "run")
    assert run.status == "error"
    assert "process 1: cpu ran out of memory" in run.info["error"]


@pytest.mark.long
def test_a_signal_to_one_stops_both_at_one_step(tmp_path: Path, corpus_file: Path) -> None:
    found = ends("stopped", tmp_path / "run", corpus_file)
    assert [status for status, *_ in found] == [130, 130]
    assert "interrupted: go on with the same command" in found[0][2]
    assert found[1][1:] == ("", "")
    stopped = gradlab.load(tmp_path / "run")
    assert stopped.status == "interrupted"
    assert stopped.table("steps")["step"].tolist() == list(range(AT + 1))
    found = ends("goes on", tmp_path / "run", corpus_file, "--resume")
    assert [status for status, *_ in found] == [0, 0]
    assert gradlab.load(tmp_path / "run").table("steps")["step"].tolist() == list(range(STEPS))


@pytest.mark.long
def test_under_torchrun_a_death_ends_within_a_minute(tmp_path: Path, corpus_file: Path) -> None:
    began = time.monotonic()
    ended = subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "torch.distributed.run",
                "--standalone",
                "--nproc-per-node",
                "2",
            ),
            *(__file__, "killed", *OPTIONS.split()),
            *("--corpus", str(corpus_file), "--out", str(tmp_path / "run")),
        ],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert ended.returncode
    assert ended.stderr.count("error: one of the 2 processes is gone") == 1
    assert gradlab.load(tmp_path / "run").status == "error"
    assert time.monotonic() - began < 240  # of which most is Python's start on a busy machine


if __name__ == "__main__":
    work(*sys.argv[1:])
