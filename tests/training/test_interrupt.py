"""Signals, each in a process of its own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import gradlab

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no signals of this kind there")

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP] if sys.platform != "win32" else []


@pytest.fixture(autouse=True)
def _nobody_ignores_them() -> Iterator[None]:
    """What a process ignores, as all that `nohup` starts ignore a hang-up, its children do too."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS[1:]}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


BETWEEN = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from gradlab.errors import in_words
from gradlab.training.interrupt import interrupt_between_steps
number = int(sys.argv[1])
with interrupt_between_steps() as check:
    check()
    os.kill(os.getpid(), number)
    print("held back", flush=True)
    try:
        check()
    except KeyboardInterrupt as error:
        print(in_words(error), flush=True)
print(signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler))
"""

IN_A_FINALIZER = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from gradlab.training.interrupt import interrupt_never_lost
class Dropped:
    def __del__(self):
        os.kill(os.getpid(), int(sys.argv[1]))
with interrupt_never_lost() as check:
    Dropped()
    print("lost by Python", flush=True)
    check()
"""

AS_CTRL_C = """
import os, signal, sys
from gradlab.training.interrupt import ending_as_ctrl_c
number = int(sys.argv[1])
if sys.argv[2] == "ignored":
    signal.signal(number, signal.SIG_IGN)
if sys.argv[2] == "handled":
    signal.signal(number, lambda *_: print("handled", flush=True))
try:
    with ending_as_ctrl_c():
        os.kill(os.getpid(), number)
        print("went on")
except KeyboardInterrupt:
    print("raised")
"""


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def name_of(number: int) -> str:
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_waits_for_the_end_of_the_step(number: int) -> None:
    said = run(BETWEEN, int(number)).stdout.split("\n")[:3]
    assert said == ["held back", name_of(number), "True"]


def test_a_second_signal_acts_at_once() -> None:
    twice = BETWEEN.replace('    print("held', '    os.kill(os.getpid(), number)\n    print("held')
    done = run(twice, int(signal.SIGTERM))
    assert (done.stdout, done.returncode) == ("", -signal.SIGTERM)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_in_a_finalizer_is_not_lost(number: int) -> None:
    done = run(IN_A_FINALIZER, int(number))
    assert done.stdout == "lost by Python\n"
    named = "" if number == signal.SIGINT else f": {name_of(number)}"
    assert done.stderr.rstrip().endswith(f"KeyboardInterrupt{named}")


@pytest.mark.parametrize(
    ("before", "said"),
    [("default", "raised\n"), ("ignored", "went on\n"), ("handled", "handled\nwent on\n")],
)
def test_what_somebody_else_decided_about_a_signal_stays(before: str, said: str) -> None:
    assert run(AS_CTRL_C, int(signal.SIGHUP), before).stdout == said


STUDY = """\
run-stability --arch pre-ln --seeds 2 --jobs 2 --lr-step 1e-6 --steps 100000 --window 5 --n-layers 1
--n-heads 1 --width 16 --max-seq-len 16 --batch-size 1
"""


def wait_until_gone(group: int) -> None:
    for _ in range(1200):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise AssertionError("a process of the study outlives it")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "to_all"),
    [
        pytest.param(number, to_all, marks=[] if (at, to_all) == (0, False) else pytest.mark.long)
        for at, number in enumerate(SIGNALS[1:])
        for to_all in (False, True)
    ],
)
def test_a_study_and_its_processes_end_as_after_ctrl_c(
    tmp_path: Path, number: int, to_all: bool
) -> None:
    corpus, out = tmp_path / "corpus.txt", tmp_path / "study"
    corpus.write_text("the quick brown fox jumps over the lazy dog. " * 400)
    command = [
        sys.executable,
        "-m",
        "gradlab.cli",
        *STUDY.split(),
        "--corpus",
        corpus,
        "--out",
        out,
    ]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as study:
        deadline = time.monotonic() + 120
        while len({part.parent for part in out.glob("*/steps/part-*")}) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        (os.killpg if to_all else os.kill)(study.pid, number)
        assert study.wait(60) == 130
        wait_until_gone(study.pid)
    for run_json in out.glob("*/run.json"):
        run = gradlab.load(run_json)
        assert run.status == "interrupted"
        assert run.info["error"] in ("its study was stopped", name_of(number))
        assert len(run.table("steps")) > 0
