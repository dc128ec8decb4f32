"""A test file run as a script by two processes, which train together through gloo."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

PROCESSES = 2


def run_in_two(script: str, *settings: str, processes: int = PROCESSES) -> None:
    """Run a file in two processes, each with its rank, a port and the settings as arguments."""
    port = str(free_port())
    path = [str(Path(__file__).parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    running = [
        subprocess.Popen(
            [sys.executable, script, str(rank), port, *settings],
            stderr=subprocess.PIPE,
            env=os.environ
            | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, path))},
            text=True,
        )
        for rank in range(processes)
    ]
    try:
        errors = [process.communicate(timeout=200)[1] for process in running]
        ends = [process.returncode for process in running]
        assert not any(ends), "\n\n".join((f"exit statuses {ends}", *errors))
    finally:
        for process in running:
            process.kill()
            process.communicate()


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
