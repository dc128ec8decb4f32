"""A run that breaks at a step that is known beforehand, on every processor."""

from collections.abc import Callable
from typing import Any

from gradlab.config import PrecisionConfig, RecordConfig, RunConfig, StabilityConfig

BREAK = 60
"""Where it breaks."""

PATIENCE = 4

LEFT_AT = BREAK + PATIENCE - 1
"""The last step of the run."""


def planted(make: Callable[..., RunConfig], **fields: Any) -> RunConfig:
    """After 60 good steps the loss scale grows by 2^60, so that every FP16 gradient is infinite.

    It stays so: by the time that it has come down, the run counts as broken. The weights do not
    change from then on, and before it nothing is lost.
    """
    precision = PrecisionConfig(
        name="fp16", initial_loss_scale=64.0, growth_interval=BREAK, growth_factor=2.0**60
    )
    settings = {
        "model": {"n_layers": 1, "dropout": 0.1},
        "steps": 400,
        "precision": precision,
        "stability": StabilityConfig(patience=PATIENCE, margin=1e9),
        "record": RecordConfig(every=10, checkpoint_every=8),
    }
    return make(**{**settings, **fields})
