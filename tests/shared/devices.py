"""For tests whose body runs on a CPU always, and on a GPU where there is one."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

DEVICES = ("cpu", pytest.param("cuda", marks=pytest.mark.gpu))
LONG_ON_CPU = (
    pytest.param("cpu", marks=pytest.mark.long),
    pytest.param("cuda", marks=pytest.mark.gpu),
)
"""For what other tests show of a CPU in less time."""


class NoHostReads(TorchDispatchMode):
    """Raises where a value is read on the host, for which a GPU would be waited."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func is not torch.ops.aten._local_scalar_dense.default, "a value was read"
        return func(*args, **(kwargs or {}))


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
