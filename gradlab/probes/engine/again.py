"""Looks again at a step in which a gradient was not finite: nothing has been changed by it yet."""

import warnings
from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.utils.hooks import RemovableHandle

from gradlab.errors import GradlabError, GradlabWarning
from gradlab.probes import fused
from gradlab.probes.engine.arithmetic import own_arithmetic
from gradlab.probes.operations.calls import Calls
from gradlab.probes.probe import Probe
from gradlab.probes.sites import in_backward


class Again:
    """Has the probes that left a step out look at it after all, as its passes are made again.

    The step's calls of the model, with what arrived at their outputs, are kept by reference until
    the step is over. Whether a gradient was not finite is read on the host once a step.

    Args:
        model: Whose calls are kept.
        probes: All that are at work on it.
        has_optimizer: Whether one tells when a step's passes are over and nothing is changed yet.

    Attributes:
        running: Whether passes are being made again.
        waiting: The probes that have left the step out.

    Raises:
        GradlabError: There is none, or several processes train the model: none of them can make
            its passes again alone.
    """

    def __init__(self, model: nn.Module, probes: Sequence[Probe], *, has_optimizer: bool) -> None:
        if not has_optimizer:
            raise GradlabError(
                'events="skipped" looks at a step before the optimizer changes anything: give '
                'attach the optimizer, or choose events="exact".'
            )
        if dist.is_initialized() and dist.get_world_size() > 1:
            raise GradlabError(
                'events="skipped" makes a step\'s passes again, which one process of several '
                'cannot do alone: choose events="exact".'
            )
        self._calls = Calls(model)
        self._probes = tuple(probes)
        self.waiting: list[Probe] = []
        self.running = False
        self._said: set[str] = set()

    def hooks(self) -> Iterable[RemovableHandle]:
        """Hooks on the model that keep its calls."""
        return self._calls.hooks()

    def begin(self) -> None:
        """A step starts: its probes are active or not."""
        self.waiting = [probe for probe in self._probes if probe.exact and not probe.active]
        if self.waiting:
            self._calls.begin()
        else:
            self._calls.end()

    @property
    def has_passes(self) -> bool:
        """Whether there are passes of this step that probes have left out, and that are over."""
        return bool(self.waiting) and self._calls.has_some and not in_backward()

    def look(self, step: int) -> list[Probe]:
        """Make the step's passes again.

        Returns:
            The probes that have looked, and are active now.
        """
        left_out, self.waiting = self.waiting, []
        if not left_out:
            return []
        others = [probe for probe in self._probes if probe.active]
        for probe in others:  # they have seen it
            probe.active = False
        for probe in left_out:
            probe.active = True
            with own_arithmetic():
                probe.begin(step)
        self.running = True
        try:
            done = self._calls.repeat()
        finally:
            self.running = False
            for probe in others:
                probe.active = True
        if not done:
            for probe in left_out:
                probe.active = False
            self._say(step)
            return []
        with own_arithmetic():
            for probe in left_out:
                probe.before_step()
        return left_out

    def say_no_pass(self, step: int) -> None:
        """Say that there is nothing to be made again as an optimizer is about to step."""
        self._warn(
            "no pass",
            f"at step {step} the optimizer stepped without a backward pass before: a closure makes "
            "it within the step, or gradients were set by hand. Such a step is not looked at: "
            'choose events="exact".',
        )

    def _say(self, step: int) -> None:
        self._warn(
            "failed",
            f"step {step} could not be made again, so nothing says why a gradient was not finite: "
            "the loop calls the model's parts alone, steps within the backward pass or has changed "
            "what it gave the model; or the model fails the second time. "
            'events="exact" looks at every step as it runs.',
        )

    def _warn(self, kind: str, sentence: str) -> None:
        """Once of each kind."""
        if kind not in self._said:
            self._said.add(kind)
            warnings.warn(sentence, GradlabWarning, stacklevel=4)


def is_lost(held: Iterable[Mapping[str, nn.Parameter]], norm: Tensor | None) -> bool:
    """Whether a gradient is not finite, read on the host.

    Args:
        held: The parameters of each optimizer, which a step without a loss scale will change.
        norm: L2, of all their gradients, where the loop has taken it.
    """
    lost = lost_gradients(held) if norm is None else ~norm.isfinite()
    return not lost.is_meta and bool(lost)


def lost_gradients(held: Iterable[Mapping[str, nn.Parameter]]) -> Tensor:
    """0-dim: above 0 if a gradient of these parameters is not finite."""
    with own_arithmetic():
        parameters = (p for of in held for p in of.values())
        gradients = [p.grad for p in parameters if p.grad is not None]
        on_one = len({x.device for x in gradients}) == 1
        if on_one and (found := fused.statistics(gradients)) is not None:
            return found[:, 3:5].sum()
        entries = list(map(_entries, gradients))
        if all(x.device.type == "cpu" for x in entries):
            # Infinite too where the squares of finite numbers are past fp32.
            lost = ~get_total_norm(entries).isfinite()
            if not lost:
                return lost
        return ~_norm_of_nothing(entries).isfinite()


def _norm_of_nothing(entries: Sequence[Tensor]) -> Tensor:
    """0-dim: 0, or NaN if an entry is not finite, as 0 times that is.

    A largest entry would not do: an empty tensor, or a process's empty part of one, has none.
    """
    norms = [torch.linalg.vector_norm(x * 0) for x in entries]
    norm: Tensor = torch.linalg.vector_norm(torch.stack([x.to(norms[0].device) for x in norms]))
    return norm


def _entries(gradient: Tensor) -> Tensor:
    entries = gradient.coalesce().values() if gradient.is_sparse else gradient
    # The norm of finite fp16 numbers may be none itself.
    return entries.float() if entries.dtype is torch.float16 else entries
