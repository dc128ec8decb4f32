"""Contestants take turns in one process: what else the machine does falls on all alike."""

import random
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext

import torch

WARM_UP = 3
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
"""Which time is taken. Of a CPU that others use too, the processor's: with one thread, that is."""


def take_turns(
    steps: Mapping[str, Callable[[], object]],
    turns: int,
    *,
    clock: str,
    device: torch.device,
    within: Callable[[str], AbstractContextManager[object]] = lambda _: nullcontext(),
) -> dict[str, list[float]]:
    """Seconds of each contestant's step at each turn, after a few that are not counted.

    Every turn has another order. On CUDA a step's time ends when the device is done. `within` gives
    the context that a contestant steps in, which is not counted either.
    """
    now = CLOCKS[clock]
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    shuffle = random.Random(0)
    for _ in range(WARM_UP + turns):
        for name in shuffle.sample(list(steps), len(steps)):
            with within(name):
                wait_for(device)
                began = now()
                steps[name]()
                wait_for(device)
                seconds[name].append(now() - began)
    return {name: taken[WARM_UP:] for name, taken in seconds.items()}


def wait_for(device: torch.device) -> None:
    """Return once the device has done all that it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
