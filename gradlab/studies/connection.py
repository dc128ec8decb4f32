"""Being connected to a Ray cluster, and the sentences where that is not possible."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from gradlab.errors import ConfigError, GradlabError
from gradlab.extra import needs_extra

RETRIES = 3
"""Times that a run is begun again whose worker or node died."""

RAY_SETTINGS = {
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # nothing of its log on the screen
    "RAY_task_oom_retries": str(RETRIES),  # where memory runs out, it has no end otherwise
}
"""What Ray takes from the environment, as it is imported and as it connects."""

_SECONDS_TO_ANSWER = 5.0


@contextmanager
def connected(address: str | None = None) -> Iterator[None]:
    """Be a driver of a Ray cluster that this machine is a node of.

    Where the process is connected already, that cluster is used, and stays connected.

    Args:
        address: Of the cluster, as 10.0.0.1:6379; if None that of RAY_ADDRESS, or of the cluster
            that runs on this machine.

    Raises:
        GradlabError: Ray is not installed, no cluster answers there, it is of another version of
            Ray or Python, or this machine is none of its nodes.
    """
    for name, value in RAY_SETTINGS.items():
        os.environ.setdefault(name, value)
    with needs_extra("ray", "the engine ray", "ray"):
        from ray import init, is_initialized, shutdown
    if is_initialized():
        if address is not None:
            raise ConfigError(
                "this process is connected to a Ray cluster already: leave out ray_address."
            )
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS") or "auto"
    if address != "auto":
        _check_answers(address)
    with _handlers_kept():
        try:
            init(address, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:  # Ray has no class of its own for them
            raise GradlabError(_not_connected(address, error)) from error
    try:
        yield
    finally:
        shutdown()


def _check_answers(address: str) -> None:
    """See that something listens at an address; Ray itself would try for minutes.

    Raises:
        GradlabError: Nothing does, or it is none.
    """
    try:
        parts = urlsplit(f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port:
        raise ConfigError(
            f"ray_address {address!r}: give the host and port of the cluster's head, as "
            "10.0.0.1:6379, on a machine that is one of its nodes."
        )
    try:
        with socket.create_connection((host, port), _SECONDS_TO_ANSWER) as connection:
            # A gRPC server sends its settings as soon as it is connected to (HTTP/2, a frame).
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4] + [0] * 5))
            is_grpc = len(answer := connection.recv(9)) == 9 and answer[3] == 4
    except OSError:
        is_grpc = False
    if not is_grpc:
        raise GradlabError(
            f"no Ray cluster answers at {address}: see the address of its head (`ray status` "
            "there), and that this machine reaches it."
        )


def _not_connected(address: str, error: Exception) -> str:
    if address == "auto":
        return (
            "there is no Ray cluster on this machine: start one with `ray start --head`, join one "
            "with `ray start --address=HOST:6379`, or name one by --ray-address."
        )
    return f"the Ray cluster at {address} cannot be used: {in_one_line(error)}"


def in_one_line(error: Exception) -> str:
    """An error's message, however long it is, without its line ends."""
    return " ".join(str(error).split())


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Ray ends its driver at SIGTERM, where a study saves what it has."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
