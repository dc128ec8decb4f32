"""The optimizer's step, seen whether it is taken or skipped."""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.amp import GradScaler

from gradlab.errors import GradlabWarning

Optimizer = torch.optim.Optimizer


class StepEnd:
    """Calls before and after each optimizer's step, and says on the device if it was skipped.

    Where a `GradScaler` finds a gradient that is not finite it does not call a plain optimizer's
    `step`, and does call a fused one's: so its own `step` is wrapped, which sees both.

    Args:
        optimizers: To be followed.
        scaler: That steps them, if there is one.
        before: Called with the optimizer.
        after: Called with the optimizer and whether it skipped: 0-dim, above 0 if so; None
            without scaling.
    """

    def __init__(
        self,
        optimizers: Sequence[Optimizer],
        scaler: GradScaler | None,
        before: Callable[[Optimizer], None],
        after: Callable[[Optimizer, Tensor | None], None],
    ) -> None:
        self._before, self._after = before, after
        self._in_scaler = self._said = False
        self._hooks = [
            hook
            for optimizer in optimizers
            for hook in (
                optimizer.register_step_pre_hook(self._on_step),
                optimizer.register_step_post_hook(self._on_stepped),
            )
        ]
        self._scaler = scaler if scaler is not None and scaler.is_enabled() else None
        if self._scaler is not None:
            self._optimizers = {id(optimizer) for optimizer in optimizers}
            self._own_step = self._scaler.__dict__.get("step")
            self._plain_step = self._scaler.step
            self._scaler.step = self._scaled_step  # type: ignore[method-assign]
            self._scaler.__dict__["__getstate__"] = partial(_state_without_us, self._scaler)

    def close(self) -> None:
        """Take off the hooks and the wrapper."""
        for hook in self._hooks:
            hook.remove()
        if self._scaler is None:
            return
        self._optimizers.clear()  # where a wrapper put over this one keeps it
        own = self._scaler.__dict__
        if own.get("step") == self._scaled_step:
            del own["step"]
            if self._own_step is None:
                own.pop("__getstate__", None)
            else:
                own["step"] = self._own_step

    def _on_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self._in_scaler:
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
        self._before(optimizer)

    def _on_stepped(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if not self._in_scaler:
            self._after(optimizer, None)

    def _scaled_step(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        if id(optimizer) not in self._optimizers:
            return self._plain_step(optimizer, *args, **kwargs)
        assert self._scaler is not None
        self._before(optimizer)
        self._in_scaler = True
        try:
            result = self._plain_step(optimizer, *args, **kwargs)
        finally:
            self._in_scaler = False
        found = list(self._scaler._found_inf_per_device(optimizer).values())
        self._after(optimizer, sum(found[1:], start=found[0]) if found else None)
        return result


def _state_without_us(scaler: GradScaler) -> dict[str, Any]:
    """What is copied or saved of a scaler: all but the wrapper, which is of the original."""
    state: dict[str, Any] = type(scaler).__getstate__(scaler)
    return {name: value for name, value in state.items() if name not in ("step", "__getstate__")}
