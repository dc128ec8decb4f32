"""What is done about a step in which something was not finite, before it has changed anything."""

import math
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gradlab.crash.keeper import Keeper, Signs
from gradlab.probes.engine.again import Again, is_lost, lost_gradients
from gradlab.probes.engine.arithmetic import own_arithmetic
from gradlab.probes.engine.window import host_numbers
from gradlab.probes.gradient_norms import GradientNorms
from gradlab.probes.headroom.probe import Headroom
from gradlab.probes.probe import Probe
from gradlab.probes.sites import in_backward


@dataclass(frozen=True)
class Now:
    """A step whose passes may be over.

    Attributes:
        step: Its number.
        passes: Backward passes so far.
        losses: That the loop told of, 0-dim.
        norm: L2, of all gradients, where the loop has taken it.
        active: The probes that have looked.
    """

    step: int
    passes: int
    losses: Sequence[Tensor]
    norm: Tensor | None
    active: Sequence[Probe]

    @property
    def has_lost_loss(self) -> bool:
        """Whether a loss was not finite, read on the host."""
        return not all(math.isfinite(loss) for loss in self.losses if not loss.is_meta)


class BadStep:
    """Has a bad step kept, and made again for the probes that left it out.

    Args:
        again: Makes passes again, if probes may leave steps out.
        keeper: Keeps steps, if that is wanted.
        held: The parameters of each optimizer.
    """

    def __init__(
        self,
        again: Again | None,
        keeper: Keeper | None,
        held: Iterable[Mapping[str, nn.Parameter]],
    ) -> None:
        self._again, self._keeper = again, keeper
        self._held = tuple(held)

    @property
    def is_made_again(self) -> bool:
        """Whether passes are being made again."""
        return self._again is not None and self._again.running

    def hooks(self) -> Iterable[RemovableHandle]:
        """Hooks on the model that keep its calls."""
        for one in (self._again, self._keeper):
            if one is not None:
                yield from one.hooks()

    def begin(self) -> None:
        """A step starts."""
        for one in (self._again, self._keeper):
            if one is not None:
                one.begin()

    def before_step(self, now: Now, *, is_told: bool) -> Again | None:
        """An optimizer is about to step: have the step kept, if it is bad.

        Args:
            now: The step.
            is_told: Whether a scaler will tell if a gradient was not finite.

        Returns:
            Who is to make its passes again, if they are.
        """
        if self._keeper is not None:
            self._keeper.look(now.step, self._signs(now), reached=True)
        return None if is_told else self._if_lost(now, lambda: is_lost(self._held, now.norm))

    def ended(self, stepped: Container[int]) -> None:
        """The step is over.

        Args:
            stepped: The ids of the optimizers that stepped in it, or skipped.
        """
        if self._keeper is not None:
            self._keeper.ended(stepped)

    def skipped(self, now: Now, skipped: Tensor) -> Again | None:
        """A scaler has told whether a gradient was not finite: then as `before_step` has it.

        Args:
            now: The step.
            skipped: 0-dim, above 0 if so.
        """
        return self._if_lost(now, lambda: bool(skipped > 0))

    def at_end(self, now: Now, error: BaseException | None) -> Again | None:
        """The step will not go on, and there may be a forward pass of it alone.

        Args:
            now: The step.
            error: That ended the training.

        Returns:
            As of `before_step`.
        """
        if self._keeper is not None:
            self._keeper.look(now.step, self._signs(now, error), reached=False)
        again = self._again
        if again is None or not again.has_passes:
            return None
        if not now.has_lost_loss and not now.passes and (error is not None or now.losses):
            return None  # nothing tells of it: the loop has told of its loss, or failed before
        lost = now.has_lost_loss or not now.passes or is_lost(self._held, now.norm)
        return again if lost else None

    def _if_lost(self, now: Now, lost: Callable[[], bool]) -> Again | None:
        again = self._again
        if again is None or not again.waiting:
            return None
        if not (now.passes or in_backward()):  # gradients may still be those of a step before
            again.say_no_pass(now.step)
            return None
        return again if lost() else None

    def _signs(self, now: Now, error: BaseException | None = None) -> Signs:
        """What there is to be found, at the cost of one read a device."""
        losses = [loss for loss in now.losses if not loss.is_meta]
        with own_arithmetic():
            read = [value for (value,) in host_numbers([self._gradients(now), *losses])]
        inside = any(isinstance(probe, Headroom) and probe.seen.lost for probe in now.active)
        return Signs(read[0] > 0, read[1:], inside, error)

    def _gradients(self, now: Now) -> Tensor:
        """0-dim: above 0 if one was not finite."""
        for probe in now.active:
            if isinstance(probe, GradientNorms) and probe.covers_all:
                return probe.nonfinite()
        if not now.passes:
            return torch.zeros((), device="cpu")
        return lost_gradients(self._held) if now.norm is None else ~now.norm.isfinite()
