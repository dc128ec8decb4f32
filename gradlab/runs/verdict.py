"""How a run ended."""

import math
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Field

from gradlab.base_config import Config

Reason = Literal[
    "loss_nonfinite",
    "grad_nonfinite",
    "loss_scale_floor",
    "loss_rise",
    "completed",
    "interrupted",
    "error",
]

BREAKS = frozenset({"loss_nonfinite", "grad_nonfinite", "loss_scale_floor", "loss_rise"})
"""The reasons that mean the run destabilised."""

NOT_LOOKED_AT = "not looked at"
"""What stands for a first overflow where nobody looked: at that step (`events = "sampled"`), or in
the whole run, which did not record headroom."""


def _finite_or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


_Real: TypeAlias = Annotated[float | None, BeforeValidator(_finite_or_none)]

_Step: TypeAlias = Annotated[int, Field(ge=0, lt=1 << 63)]


class Verdict(Config):
    """Why and where a run ended. A rate that is not finite is stored as None: JSON has no NaN.

    Attributes:
        reason: One of the four breaks, `completed` (the cap on steps came first: censored), or
            `interrupted` or `error`, which are neither.
        step: First step of the streak that made the run break, or the last step taken.
        lr: Learning rate at `step`.
        detected_step: The step at which the rule fired; None unless the run broke.
        first_overflow: Site of the producer of the first overflow at `step`, forward before
            backward: the one that led to the break. None if nothing overflowed there, or the loss
            rose and the step was skipped, which changed nothing; `NOT_LOOKED_AT` if that is not
            known.
        lr_min_loss: Learning rate at the lowest EMA of the loss.
        lr_collapse: Learning rate at which the EMA, having been below the corpus's unigram
            entropy, first rises above it after its lowest; None if it never did.
    """

    reason: Reason
    step: _Step | None = None
    lr: _Real = None
    detected_step: _Step | None = None
    first_overflow: str | None = None
    lr_min_loss: _Real = None
    lr_collapse: _Real = None

    @property
    def censored(self) -> bool:
        """The run reached its last step: its break, if it has one, lies beyond."""
        return self.reason == "completed"

    @property
    def broke(self) -> bool:
        """The run destabilised."""
        return self.reason in BREAKS
