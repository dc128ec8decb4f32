from collections.abc import Callable
from typing import Any

import pytest

from gradlab.config import RunConfig, ScheduleConfig
from gradlab.models.config import ModelConfig


@pytest.fixture
def config() -> RunConfig:
    model = ModelConfig(d_model=8, n_layers=2, n_heads=2, d_ff=16, max_seq_len=4)
    ramp = ScheduleConfig(kind="ramp", lr_step=2e-4)
    return RunConfig(arch="normformer", size="nano", model=model, schedule=ramp, steps=9, seed=2)


@pytest.fixture
def steps() -> Callable[..., dict[str, list[Any]]]:
    """Rows of the table `steps` for a range of steps."""

    def make(*bounds: int) -> dict[str, list[Any]]:
        numbers = list(range(*bounds))
        return {
            "step": numbers,
            "update": numbers,
            "lr": [2e-4 * n for n in numbers],
            "loss": [5.0 - n / 7 for n in numbers],
            "val_loss": [None] * len(numbers),
            "loss_scale": [65536.0] * len(numbers),
            "skipped": [n % 3 == 0 for n in numbers],
            "grad_norm": [float(n) for n in numbers],
            "tokens": [32 * n for n in numbers],
            "seconds": [0.1 * n for n in numbers],
        }

    return make
