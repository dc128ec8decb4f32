"""A test file run as a script by two processes, which train together through gloo."""

import multiprocessing
import os
import runpy
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

PROCESSES = 2


def run_in_two(script: str, *settings: str, processes: int = PROCESSES) -> None:
    """Run a file in two processes, each with its rank, a port and the settings as arguments."""
    port = str(free_port())
    arguments = [[str(rank), port, *settings] for rank in range(processes)]
    found = _ended(script, arguments, [{}] * processes)
    statuses = [status for status, *_ in found]
    assert statuses == [0] * processes, "\n\n".join(
        (f"exit statuses {statuses}", *(errors for *_, errors in found))
    )


def ended(
    script: str, arguments: Sequence[str], environments: Sequence[Mapping[str, str]]
) -> list[tuple[int, str, str]]:
    """Run a file in a process for each environment: their exit statuses, stdout and stderr."""
    return _ended(script, [arguments] * len(environments), environments)


def _ended(
    script: str, arguments: Sequence[Sequence[str]], environments: Sequence[Mapping[str, str]]
) -> list[tuple[int, str, str]]:
    """The processes are made by a server that has imported what they need."""
    context: Any = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
    if sys.platform == "linux":
        context.set_forkserver_preload(["gradlab.training.loop", "torch._dynamo"])
    with tempfile.TemporaryDirectory() as folder:
        said = [
            (Path(folder) / f"{n}.out", Path(folder) / f"{n}.err") for n in range(len(arguments))
        ]
        running = [
            context.Process(target=_run, args=each)
            for each in zip(said, environments, [script] * len(said), arguments, strict=True)
        ]
        for process in running:
            process.start()
        try:
            for process in running:
                process.join(200)
            return [
                (process.exitcode, _text(out), _text(err))
                for process, (out, err) in zip(running, said, strict=True)
            ]
        finally:
            for process in running:
                process.kill()
                process.join()


def _text(file: Path) -> str:
    return file.read_text() if file.exists() else ""


def _run(
    said: tuple[Path, Path], environment: Mapping[str, str], script: str, arguments: Sequence[str]
) -> None:
    """A process's whole life; what it says goes into the files."""
    for path, stream in zip(said, (sys.stdout, sys.stderr), strict=True):
        with path.open("w") as file:
            os.dup2(file.fileno(), stream.fileno())
    os.environ |= environment
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")


@contextmanager
def one_of_two(rank: str, port: str, size: int = PROCESSES) -> Iterator[int]:
    """This process's rank, while it is one of the two."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    timeout = timedelta(seconds=60)
    dist.init_process_group("gloo", rank=int(rank), world_size=size, timeout=timeout)
    try:
        yield int(rank)
        dist.barrier()
    finally:
        dist.destroy_process_group()


@contextmanager
def as_first_of_two() -> Iterator[None]:
    """This process believes to be the first of two, and hears nothing of the other."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        yield
    finally:
        dist.destroy_process_group()


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])
