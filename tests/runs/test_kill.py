"""A writer that is killed, or runs out of disk, leaves whole rows behind."""

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import gradlab
from gradlab.config import RunConfig
from gradlab.errors import GradlabError
from gradlab.runs.writer import RunWriter

ROWS = 20

WRITE = """
import json, sys
from gradlab.config import RunConfig
from gradlab.runs.writer import RunWriter
writer = RunWriter(sys.argv[1], RunConfig.from_mapping(json.loads(sys.argv[2])))
rows = int(sys.argv[3])
for part in range(10**6):
    steps = list(range(part * rows, (part + 1) * rows))
    writer.write("steps", {
        "step": steps, "update": steps, "lr": [0.1] * rows, "loss": [s / 3 for s in steps],
        "val_loss": [None] * rows, "loss_scale": [1.0] * rows, "skipped": [False] * rows,
        "grad_norm": [1.0] * rows, "tokens": steps, "seconds": [0.5] * rows,
    })
    print(part, flush=True)
"""


def start(
    path: Path, config: RunConfig, rows: int = ROWS, first: str = ""
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", first + WRITE, str(path), config.model_dump_json(), str(rows)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def check_whole(path: Path, rows: int = ROWS) -> int:
    """Every row that can be read is the one that was written; returns the number of parts."""
    table = gradlab.load(path).table("steps")
    assert len(table) % rows == 0
    assert table["step"].tolist() == list(range(len(table)))
    assert table["loss"].tolist() == [step / 3 for step in range(len(table))]
    return len(table) // rows


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
@pytest.mark.parametrize("seed", [0, 1, 2, pytest.param(3, marks=pytest.mark.slow)])
def test_a_kill_at_any_moment_loses_at_most_the_rows_not_handed_over(
    tmp_path: Path, config: RunConfig, seed: int
) -> None:
    with start(tmp_path / "run", config) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "0\n"
        time.sleep(random.Random(seed).uniform(0, 0.3))
        check_whole(tmp_path / "run")  # while it is being written
        writer.kill()
        written = 1 + max((int(line) for line in writer.stdout if line.endswith("\n")), default=0)
    assert check_whole(tmp_path / "run") in (written, written + 1)
    run = gradlab.load(tmp_path / "run")
    assert (run.status, run.verdict) == ("stopped", None)


LIMIT = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_a_file_that_does_not_fit_is_one_sentence_and_the_run_stays_whole(
    tmp_path: Path, config: RunConfig
) -> None:
    with start(tmp_path / "run", config, rows=5000, first=LIMIT) as writer:
        _, errors = writer.communicate()
    assert "GradlabError: there is no space left to write" in errors
    assert "run/steps/part-000000." in errors
    assert check_whole(tmp_path / "run") == 0
    assert not list((tmp_path / "run" / "steps").iterdir())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 kB, where the system lets us mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)]
    try:
        made = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        made = False
    if not made:
        pytest.skip("mounting a small disk needs privileges")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_one_sentence_and_the_run_stays_whole(
    small_disk: Path, config: RunConfig
) -> None:
    with start(small_disk / "run", config, rows=1000) as writer:
        printed, errors = writer.communicate()
    assert "GradlabError: there is no space left to write" in errors
    assert check_whole(small_disk / "run", rows=1000) == len(printed.split()) > 0
    with (small_disk / "filler").open("wb", buffering=0) as filler:
        assert filler.write(b"x" * 10**6) < 10**6  # takes what is left
    with pytest.raises(GradlabError, match="no space left to write"):
        RunWriter(small_disk / "second", config)
