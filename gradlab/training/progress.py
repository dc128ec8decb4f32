"""What a run tells of itself while it trains."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """A run's state after a step that has been looked at.

    Attributes:
        step: The 0-based step.
        steps: Steps that the run will take at most.
        lr: Learning rate of that step.
        loss: Training loss of that step in nats a token.
        loss_scale: The loss scale that it used (1 without scaling).
        least_headroom: Bits left at the tightest site of that step; None if not recorded.
        tightest_site: That site's name.
        seconds: Time since the first step began.
        overflow_site: Where FP16 will overflow, by the last forecast; None if none is foreseen.
        overflow_step: At which step.
    """

    step: int
    steps: int
    lr: float
    loss: float
    loss_scale: float
    least_headroom: float | None
    tightest_site: str | None
    seconds: float
    overflow_site: str | None = None
    overflow_step: int | None = None
