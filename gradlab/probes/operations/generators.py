"""The state of the random generators that a model may draw from."""

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Generators:
    """Their state: Python's, NumPy's, torch's of the CPU and, by device, of CUDA."""

    python: tuple[Any, ...]
    numpy: Any
    cpu: Tensor
    cuda: dict[int, Tensor]


def generators() -> Generators:
    """Their state now."""
    used = torch.cuda.is_available() and torch.cuda.is_initialized()
    cuda = {i: torch.cuda.get_rng_state(i) for i in range(torch.cuda.device_count() if used else 0)}
    numpy = np.random.get_state()  # noqa: NPY002 - a model may still draw from it
    return Generators(random.getstate(), numpy, torch.get_rng_state(), cuda)


def set_generators(state: Generators) -> None:
    """Have them go on from a state."""
    random.setstate(state.python)
    np.random.set_state(state.numpy)  # noqa: NPY002
    torch.set_rng_state(state.cpu)
    for device, of_device in state.cuda.items():
        torch.cuda.set_rng_state(of_device, device)
