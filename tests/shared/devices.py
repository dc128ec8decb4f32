"""For tests whose body runs on a CPU always, and on a GPU where there is one."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

DEVICES = ("cpu", pytest.param("cuda", marks=pytest.mark.gpu))


@contextmanager
def never_waiting(device: str = "cuda") -> Iterator[None]:
    """On a GPU, what waits for it raises; on a CPU nothing waits."""
    if device == "cpu":
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype")
        try:
            torch.cuda.set_sync_debug_mode("error")
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")
