"""Gradients that a loop never clears, so that each step adds to those of the step before."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gradlab.probes.engine.backward_end import gradient_state


@dataclass
class _Witness:
    """A parameter of an optimizer that has stepped.

    Attributes:
        left: Where its gradient lies and how often it was changed, if all that happened to it since
            that step is that passes added to it.
        passes: How many did.
    """

    name: str
    parameter: nn.Parameter
    left: tuple[int, int] | None
    passes: int = 0

    @property
    def is_kept(self) -> bool:
        return self.left is not None and self.passes > 0


class CarriedOver:
    """Tells, once, of an optimizer whose step took the gradients of the step before as well.

    One parameter of each optimizer is looked at: nothing but passes must have changed its gradient
    since the last step, as far as torch counts that. What clears it without a count, as
    `.grad.data.zero_()` does, is ruled out by its values: they are read, once a run at most, as the
    next pass comes to it.
    """

    def __init__(self) -> None:
        self._witnesses: dict[int, _Witness] = {}
        self._suspect: int | None = None
        self._is_sure = self._is_over = False
        self._hook: RemovableHandle | None = None

    def close(self) -> None:
        """Take off the hook, if one is on."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def stepped(self, optimizer: int, held: Mapping[str, nn.Parameter]) -> None:
        """An optimizer has stepped, or was kept from it.

        Args:
            optimizer: Its id.
            held: What it trains.
        """
        if self._is_over:
            return
        for name, parameter in held.items():
            if (left := gradient_state(parameter)) is not None:
                witness = _Witness(name, parameter, left)
                self._witnesses[optimizer] = witness
                if self._suspect == optimizer and not self._is_sure:
                    self._read(witness)
                return

    def passed(self, changed: Mapping[str, nn.Parameter]) -> None:
        """A backward pass has ended.

        Args:
            changed: The parameters whose gradient it changed.
        """
        for witness in self._witnesses.values():
            if witness.left is None or witness.name not in changed:
                continue
            ptr, version = witness.left
            now = gradient_state(witness.parameter)
            witness.left = now if now == (ptr, version + 1) else None
            witness.passes += 1

    def about_to_step(self, optimizer: int) -> str | None:
        """The parameter whose gradient was carried over, the first time that this is sure.

        Args:
            optimizer: The id of the one that steps.
        """
        witness = self._witnesses.pop(optimizer, None)  # passes within are a closure's
        if witness is None or not witness.is_kept:
            return None
        if self._suspect is None:
            self._suspect = optimizer
        if self._suspect != optimizer or not self._is_sure:
            return None
        self._is_over = True
        self._witnesses.clear()
        return witness.name

    def _read(self, witness: _Witness) -> None:
        """Have the next pass that comes to a gradient look first whether there is one."""

        def look(_: Tensor) -> None:
            self.close()
            gradient = witness.parameter.grad
            is_left = witness.left is not None and gradient_state(witness.parameter) == witness.left
            # A read would end a capture.
            captured = torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()
            is_left &= not captured
            self._is_sure = is_left and gradient is not None and bool((gradient != 0).any())
            self._is_over = not self._is_sure

        self.close()
        self._hook = witness.parameter.register_hook(look)
