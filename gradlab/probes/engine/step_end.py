"""The optimizer's step, seen whether it is taken or skipped."""

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.amp.grad_scaler import OptState

from gradlab.errors import GradlabWarning
from gradlab.probes.engine.own_hook import LeftOut

Optimizer = torch.optim.Optimizer

_STEP = Optimizer.profile_hook_step(len).__code__
"""Of what torch puts around the `step` of every optimizer's class, and what calls its hooks."""


class StepEnd:
    """Calls before and after each optimizer's step, and says on the device if it was skipped.

    Where a `GradScaler` finds a gradient that is not finite it does not call a plain optimizer's
    `step`, and does call a fused one's: so its own `step` is wrapped, which sees both.

    An optimizer's step may go through several of torch's wrappers: of a subclass that calls
    `super().step()`, or of an optimizer wrapped around it. The outermost counts.

    Args:
        optimizers: To be followed: each, and what is wrapped around it, with the one inside.
        scaler: That steps them, if there is one.
        before: Called with the optimizer inside.
        after: Called with the optimizer and whether it skipped: 0-dim, above 0 if so; None
            without scaling.
    """

    def __init__(
        self,
        optimizers: Mapping[Optimizer, Optimizer],
        scaler: GradScaler | None,
        before: Callable[[Optimizer], None],
        after: Callable[[Optimizer, Tensor | None], None],
    ) -> None:
        self._before, self._after = before, after
        self._in_scaler = self._said = False
        self._inside = {id(outer): inner for outer, inner in optimizers.items()}
        self._hooks = [
            hook
            for optimizer in optimizers
            if hasattr(optimizer, "_optimizer_step_pre_hooks")  # a wrapper may not have called init
            for hook in (
                optimizer.register_step_pre_hook(self._on_step),
                optimizer.register_step_post_hook(self._on_stepped),
            )
        ]
        self._scaler = scaler if scaler is not None and scaler.is_enabled() else None
        if self._scaler is not None:
            self._own_step = self._scaler.__dict__.get("step")
            self._plain_step = self._scaler.step
            below = _follower_of(self._own_step)
            self._left_out: LeftOut = (
                LeftOut(self._scaler, lambda state: state.pop("step", None))
                if below is None
                else below._left_out
            )
            self._scaler.step = self._scaled_step  # type: ignore[method-assign]

    def close(self) -> None:
        """Take off the hooks and the wrapper, also from under that of another recording."""
        for hook in self._hooks:
            hook.remove()
        # A wrapper of somebody else's may be over this one, and keep it.
        self._inside.clear()
        self._before, self._after = (lambda _: None), (lambda _, __: None)
        if self._scaler is None:
            return
        own = self._scaler.__dict__
        if own.get("step") == self._scaled_step:
            del own["step"]
            if self._own_step is not None:
                own["step"] = self._own_step
        above = _follower_of(own.get("step"))
        while above is not None and above._own_step != self._scaled_step:
            above = _follower_of(above._own_step)
        if above is not None:
            above._own_step, above._plain_step = self._own_step, self._plain_step
        if _follower_of(own.get("step")) is None:
            self._left_out.remove()

    def _on_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self._in_scaler or self._is_within_another(optimizer):
            return
        if self._scaler is not None and not self._said:
            self._said = True
            warnings.warn(
                "the scaler that attach was given does not step this optimizer: gradients are "
                "recorded divided by its scale all the same. Give attach the scaler that the loop "
                "uses, or none.",
                GradlabWarning,
                stacklevel=2,
            )
        self._before(self._inside[id(optimizer)])

    def _on_stepped(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if not self._in_scaler and not self._is_within_another(optimizer):
            self._after(self._inside[id(optimizer)], None)

    def _is_within_another(self, optimizer: Optimizer) -> bool:
        """Whether this hook of an optimizer is called within another `step` that counts as its."""
        inside = self._inside[id(optimizer)]
        calls = 0
        frame: FrameType | None = sys._getframe(2)
        while frame is not None:
            # Such a frame ends with the step; to look at the locals of a caller's, a loop's say,
            # keeps them alive for as long as it runs.
            if frame.f_code is _STEP:
                stepping = frame.f_locals["args"][0]
                calls += self._inside.get(id(stepping)) is inside
            frame = frame.f_back
        return calls > 1

    def _scaled_step(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        inside = self._inside.get(id(optimizer))
        if inside is None:
            return self._plain_step(optimizer, *args, **kwargs)
        assert self._scaler is not None
        self._before(inside)
        self._in_scaler = True
        try:
            result = self._plain_step(optimizer, *args, **kwargs)
        finally:
            self._in_scaler = False
        found = list(self._scaler._found_inf_per_device(optimizer).values())
        self._after(inside, sum(found[1:], start=found[0]) if found else None)
        return result


def _follower_of(step: Any) -> StepEnd | None:
    """Whose wrapper a scaler's `step` is, if it is one of these."""
    owner = getattr(step, "__self__", None)
    return owner if isinstance(owner, StepEnd) else None


def say_if_scaled(optimizer: Optimizer) -> None:
    """Warn if a GradScaler steps an optimizer, where attach was given none."""
    if getattr(optimizer, "grad_scale", None) is None and not _called_by_a_scaler():
        return
    warnings.warn(
        "a GradScaler steps this optimizer, and attach was not given it: gradients are recorded "
        "multiplied by the loss scale, and skipped steps not at all. Pass scaler= to attach.",
        GradlabWarning,
        stacklevel=2,
    )


def is_stepping() -> bool:
    """Whether this is called within an optimizer's step, as its closure is.

    Asked of the stack, as no hook tells of the end of a step that raises.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code is not _STEP:
        frame = frame.f_back
    return frame is not None


def is_unscaled(scaler: GradScaler | None, optimizer: Optimizer) -> bool:
    """Whether the loop has had a scaler divide an optimizer's gradients in this step."""
    if scaler is None:
        return True
    state = scaler._per_optimizer_states.get(id(optimizer), {})
    return state.get("stage") is OptState.UNSCALED


def _called_by_a_scaler() -> bool:
    """Whether a GradScaler that is at work is on the stack."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        # Of no other frame the locals: a look at a caller's keeps them alive as long as it runs.
        if frame.f_code is GradScaler.step.__code__:
            return bool(frame.f_locals["self"].is_enabled())
        frame = frame.f_back
    return False


def learning_rate(optimizers: Sequence[Optimizer]) -> float | Tensor | None:
    """That of the first optimizer, as it is now; None without any, or where it names none."""
    # Adafactor without a rate of its own has None; a user's optimizer may have anything.
    lr = optimizers[0].param_groups[0].get("lr") if optimizers else None
    if isinstance(lr, Tensor) and lr.numel() == 1:
        return lr.detach().clone()
    return float(lr) if isinstance(lr, Real) else None
