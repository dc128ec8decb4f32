"""The device that a run trains on, and what makes it repeatable there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gradlab.errors import ConfigError, unknown


def resolve_device(name: str) -> torch.device:
    """The device of a name: `auto` (CUDA where there is one, else the CPU), `cpu`, `cuda[:N]`.

    Raises:
        ConfigError: An unknown name, or CUDA where there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()) or name.endswith(":"):
        raise ConfigError(unknown("device", name, ["auto", "cpu", "cuda", "cuda:0"]))
    if kind == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(number or 0) >= count:
        here = f"this machine has {count} CUDA device(s)" if count else "there is no CUDA here"
        raise ConfigError(f"device {name!r}: {here}; use --device cpu, or auto.")
    return torch.device(name)


@contextmanager
def repeatable(device: torch.device, seed: int) -> Iterator[None]:
    """Draw dropout from `seed` and, on CUDA, use deterministic kernels; undone on leaving."""
    on_cuda = device.type == "cuda"
    was = torch.are_deterministic_algorithms_enabled()
    was_warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    with torch.random.fork_rng(devices=[device] if on_cuda else []):
        torch.manual_seed(seed)
        if on_cuda:
            # cuBLAS reads it once, when it starts; without it, deterministic mode refuses it.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(was, warn_only=was_warn_only)
