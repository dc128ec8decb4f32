"""When a run has destabilised: the criterion, as a function of what each step showed.

The paper trains "until training destabilizes" (section 4.1, Figure 5) without saying when that
is. Here it is the first of

* `patience` consecutive steps whose loss or gradient is not finite,
* a loss scale under its floor (where fairseq gives up),
* the loss's moving average above its running minimum by `margin` nats.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from gradlab.config import StabilityConfig
from gradlab.runs.verdict import Reason, Verdict


@dataclass
class StabilityMonitor:
    """Follows a run step by step and says when it destabilised, and what it saw on the way.

    Attributes:
        config: Thresholds.
        unigram_entropy: The corpus's, in nats: a loss above it means that the model is useless.
    """

    config: StabilityConfig
    unigram_entropy: float
    _ema: float = field(default=math.nan, init=False)
    _ema_min: float = field(default=math.inf, init=False)
    _lr_min_loss: float | None = field(default=None, init=False)
    _was_useful: bool = field(default=False, init=False)
    _lr_collapse: float | None = field(default=None, init=False)
    _streak: list[tuple[int, float, Reason]] = field(default_factory=list, init=False)
    _broke: tuple[Reason, int, float, int] | None = field(default=None, init=False)

    def observe(
        self, step: int, lr: float, loss: float, loss_scale: float, gradient_finite: bool
    ) -> bool:
        """Take in one step, in order; True once the run has destabilised, and from then on."""
        finite_loss = math.isfinite(loss)
        if finite_loss:
            self._follow_loss(lr, loss)
        if finite_loss and gradient_finite:
            self._streak.clear()
        else:
            reason: Reason = "grad_nonfinite" if finite_loss else "loss_nonfinite"
            self._streak.append((step, lr, reason))
        if self._broke is None:
            self._broke = self._judge(step, lr, loss_scale)
        return self._broke is not None

    @property
    def broke_at(self) -> int:
        """First step of the streak that made it break, once it has."""
        assert self._broke is not None
        return self._broke[1]

    def verdict(self, *, otherwise: Reason, step: int, lr: float) -> Verdict:
        """What became of the run; `otherwise`, at its last step, if it never destabilised."""
        reason, at, at_lr, detected = self._broke or (otherwise, step, lr, None)
        return Verdict(
            reason=reason,
            step=at,
            lr=at_lr,
            detected_step=detected,
            lr_min_loss=self._lr_min_loss,
            lr_collapse=self._lr_collapse,
        )

    def state(self) -> dict[str, Any]:
        """What it has seen so far, for `restore`; JSON can hold it, NaN and inf included."""
        return {item.name: getattr(self, item.name) for item in fields(self) if not item.init}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave, and JSON gave back."""
        for name, value in state.items():
            setattr(self, name, value)

    def _judge(
        self, step: int, lr: float, loss_scale: float
    ) -> tuple[Reason, int, float, int] | None:
        first_step, first_lr, reason = self._streak[0] if self._streak else (step, lr, None)
        if reason and len(self._streak) >= self.config.patience:
            return reason, first_step, first_lr, step
        if loss_scale < self.config.loss_scale_floor:
            return "loss_scale_floor", first_step, first_lr, step
        if self._ema > self._ema_min + self.config.margin:
            return "loss_rise", step, lr, step
        return None

    def _follow_loss(self, lr: float, loss: float) -> None:
        decay = self.config.ema_decay
        self._ema = loss if math.isnan(self._ema) else decay * self._ema + (1 - decay) * loss
        if self._ema < self._ema_min:
            self._ema_min, self._lr_min_loss = self._ema, lr
            # A collapse comes after the lowest loss: before, it was a wobble on the way down.
            self._lr_collapse = None
        if self._ema < self.unigram_entropy:
            self._was_useful = True
        elif self._was_useful and self._lr_collapse is None and self._ema > self.unigram_entropy:
            self._lr_collapse = lr
