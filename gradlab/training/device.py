"""The device that a run trains on, and what makes it repeatable there."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from gradlab.config import PrecisionConfig
from gradlab.errors import ConfigError, GradlabError, unknown


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


def check_format(config: PrecisionConfig, device: torch.device) -> None:
    """Refuse bf16 on a GPU that was made before it.

    Raises:
        ConfigError: This one was.
    """
    if config.name != "bf16" or device.type != "cuda" or torch.version.hip:
        return
    major, minor = torch.cuda.get_device_capability(device)
    if major < 8:
        raise ConfigError(
            f"bf16 needs a GPU of compute capability 8.0 or higher, and "
            f"{torch.cuda.get_device_name(device)} has {major}.{minor}: use precision fp16 or fp32."
        )


@contextmanager
def repeatable(device: torch.device, seed: int) -> Iterator[None]:
    """Draw dropout from `seed` and, on CUDA, use deterministic kernels; undone on leaving.

    Raises:
        GradlabError: CUDA multiplied matrices in this process before it was set up for that.
    """
    on_cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_cuda else []):
        torch.default_generator.manual_seed(seed)
        if not on_cuda:
            yield
            return
        with torch.cuda.device(device):  # torch.manual_seed reseeds those of all devices
            torch.cuda.manual_seed(seed)
        with _deterministic_kernels(device):
            yield


@contextmanager
def on_threads(count: int | None) -> Iterator[None]:
    """So many threads on a CPU for a while, as a study's runs have one; as many as now if None."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _deterministic_kernels(device: torch.device) -> Iterator[None]:
    was = torch.are_deterministic_algorithms_enabled()
    was_warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    was_filling = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    # Every new tensor would be filled with NaN first. None of ours is read before it is written.
    memory.fill_uninitialized_memory = False
    try:
        _check_products(device)
        yield
    finally:
        torch.use_deterministic_algorithms(was, warn_only=was_warn_only)
        memory.fill_uninitialized_memory = was_filling


def _check_products(device: torch.device) -> None:
    """Refuse what torch would refuse at the first product, in words that name the way out."""
    one = torch.ones(1, 1, device=device)
    try:
        torch.mm(one, one)
    except RuntimeError as error:
        if "CUBLAS_WORKSPACE_CONFIG" not in str(error):
            raise
        raise GradlabError(
            "CUDA was used in this process before it was set up to repeat to the bit: import "
            "gradlab before the first matrix product, or set CUBLAS_WORKSPACE_CONFIG=:4096:8 in "
            "the environment."
        ) from error
