"""A test file run as a script by two processes, which train together through gloo."""

import multiprocessing
import os
import runpy
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

PROCESSES = 2


def run_in_two(script: str, *settings: str, processes: int = PROCESSES) -> None:
    """Run a file in two processes, each with its rank, a port and the settings as arguments.

    They are made by a server that has imported what they need.
    """
    context: Any = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
    if sys.platform == "linux":
        context.set_forkserver_preload(["gradlab.training.loop", "torch._dynamo"])
    port = str(free_port())
    with tempfile.TemporaryDirectory() as folder:
        logs = [Path(folder) / str(rank) for rank in range(processes)]
        running = [
            context.Process(target=_run, args=(log, script, str(rank), port, *settings))
            for rank, log in enumerate(logs)
        ]
        for process in running:
            process.start()
        try:
            for process in running:
                process.join(200)
            ends = [process.exitcode for process in running]
            assert ends == [0] * processes, "\n\n".join(
                (f"exit statuses {ends}", *(log.read_text() for log in logs if log.exists()))
            )
        finally:
            for process in running:
                process.kill()
                process.join()


def _run(log: Path, script: str, *arguments: str) -> None:
    """A process's whole life; what it says goes into the log."""
    with log.open("w") as file:
        os.dup2(file.fileno(), sys.stderr.fileno())
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


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])
