"""Runs in processes of their own, a few at a time."""

import contextlib
import json
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from gradlab.config import RunConfig
from gradlab.errors import GradlabError
from gradlab.training.interrupt import (
    heed_ending_alone,
    interrupt_never_lost,
    signals_blocked,
)
from gradlab.training.progress import Progress

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext, SpawnContext

SECONDS_BETWEEN_NEWS = 0.25
"""How often a run tells of itself at most."""

_IMPORTED = ["gradlab.training.loop", "torch._dynamo"]
"""What a run imports: the second when its optimizer is made."""


@dataclass(frozen=True)
class Job:
    """One run to train: its name, what it does, and its run directory."""

    name: str
    config: RunConfig
    path: Path

    def do(self, progress: Callable[[Progress], None], between_steps: Callable[[], None]) -> None:
        """Train it, or go on with it."""
        from gradlab.training.loop import train

        train(self.config, self.path, resume=True, progress=progress, between_steps=between_steps)


class Work(Protocol):
    """What a process can do: a `Job`, or another run of steps."""

    @property
    def name(self) -> str:
        """What its news are told under."""

    def do(self, progress: Callable[[Progress], None], between_steps: Callable[[], None]) -> None:
        """Do it; what `between_steps` raises ends it early, with what there is saved."""


@dataclass
class _Worker:
    job: Work
    process: BaseProcess
    connection: Connection
    message: str | None = None


def run_jobs(
    jobs: Sequence[Work],
    *,
    limit: int,
    on_progress: Callable[[str, Progress], None],
    on_end: Callable[[str, str | None], None],
) -> None:
    """Do the jobs in order, up to `limit` at the same time, each in a new process.

    Args:
        jobs: What to do.
        limit: Processes at the same time.
        on_progress: Told a job's name and news, a few times a second.
        on_end: Told a job's name, and in a sentence why it failed, or None if it finished.

    Raises:
        KeyboardInterrupt: After Ctrl-C, SIGTERM or SIGHUP, once every running job has saved what
            it has.
    """
    waiting = list(jobs)
    running: list[_Worker] = []
    try:
        with interrupt_never_lost() as check_interrupt:
            while waiting or running:
                while waiting and len(running) < limit:
                    running.append(_start(waiting.pop(0)))
                _serve(running, on_progress, on_end)
                check_interrupt()
    except BaseException:
        for worker in running:
            with contextlib.suppress(OSError):
                worker.connection.send_bytes(_packed("stop"))
        _wait_or_terminate(running)
        raise


def _serve(
    running: list[_Worker],
    on_progress: Callable[[str, Progress], None],
    on_end: Callable[[str, str | None], None],
) -> None:
    """Pass on the next news, and take out the workers that have ended."""
    ready = wait([worker.connection for worker in running], timeout=1.0)
    for worker in [worker for worker in running if worker.connection in ready]:
        try:
            news = _unpacked(worker.connection.recv_bytes())
        except (EOFError, OSError):  # OSError: it was killed in the middle of a message
            worker.process.join()
            running.remove(worker)
            code = worker.process.exitcode
            if code and worker.message is None:
                worker.message = f"its process ended with status {code}"
            on_end(worker.job.name, worker.message)
        else:
            if isinstance(news, Progress):
                on_progress(worker.job.name, news)
            elif news is not None:
                worker.message = news


def _wait_or_terminate(running: list[_Worker]) -> None:
    """Let the workers end by themselves; a second Ctrl-C ends them at once."""
    try:
        for worker in running:
            # A worker that still has news to send would wait for somebody to read it.
            with contextlib.suppress(EOFError, OSError):
                while True:
                    worker.connection.recv_bytes()
            worker.process.join()
    except KeyboardInterrupt:
        for worker in running:
            worker.process.terminate()


def _start(job: Work) -> _Worker:
    context = _context()
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(job, theirs, dict(os.environ)), daemon=True)
    if context.get_start_method() == "forkserver":
        # What it makes inherits what it has blocked. This process has not: the server imports for
        # some seconds before it makes the first, and Ctrl-C is not to wait for that.
        resource_tracker.ensure_running()  # which would unblock signals again
        with signals_blocked():
            forkserver.ensure_running()
        process.start()
    else:
        with signals_blocked():
            process.start()
    theirs.close()
    return _Worker(job, process, ours)


def _context() -> "SpawnContext | ForkServerContext":
    """How processes are made that share nothing with this one.

    On Linux by a server that has imported what every run needs, which takes as long as fifty steps
    of a small model; elsewhere a process with threads is not safe to fork.
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(_IMPORTED)
    return server


def _work(job: Work, connection: Connection, environment: dict[str, str]) -> None:
    """A worker's whole life: one run, on one thread if on a CPU."""
    # The server has it as it was at its own start, which may have been another's.
    os.environ.clear()
    os.environ.update(environment)
    last_sent = 0.0
    latest: Progress | None = None

    def report(news: Progress) -> None:
        nonlocal last_sent, latest
        latest = news
        try:
            now = time.monotonic()
            if now - last_sent > SECONDS_BETWEEN_NEWS:
                last_sent = now
                connection.send_bytes(_packed(news))
        except OSError:  # the study is gone: nobody waits for this run any more
            raise KeyboardInterrupt("its study was stopped") from None

    def heed() -> None:
        if connection.poll():  # told to stop, or the study is gone
            raise KeyboardInterrupt("its study was stopped")

    try:
        heed_ending_alone()
        heed()
        import torch

        torch.set_num_threads(1)
        job.do(report, heed)
        _tell(connection, latest)
    except KeyboardInterrupt:
        sys.exit(130)
    except GradlabError as error:
        _tell(connection, str(error))
        sys.exit(2)
    except Exception as error:
        traceback.print_exc()
        _tell(connection, f"{type(error).__name__}: {error}")
        sys.exit(1)


def _tell(connection: Connection, message: str | Progress | None) -> None:
    with contextlib.suppress(OSError):
        connection.send_bytes(_packed(message))


def _packed(message: str | Progress | None) -> bytes:
    """A message between a study and its run, as JSON: nothing that is read is executed."""
    return json.dumps(asdict(message) if isinstance(message, Progress) else message).encode()


def _unpacked(content: bytes) -> str | Progress | None:
    """What `_packed` was given."""
    message = json.loads(content)
    return Progress(**message) if isinstance(message, dict) else message
