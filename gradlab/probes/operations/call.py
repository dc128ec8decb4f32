"""One call of a model with the gradients that arrived at its outputs: enough to repeat it."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from gradlab.precision.emulation import emulated_fp16, is_emulating
from gradlab.probes.operations.generators import Generators
from gradlab.probes.sites import version_of

Autocast: TypeAlias = Mapping[str, tuple[bool, torch.dtype]]
"""By device type: whether it is on, and the dtype."""


@dataclass(frozen=True)
class Arithmetic:
    """How products are made at some moment of a loop.

    Attributes:
        autocast: Of the devices that matter.
        emulated: Whether FP16 products are emulated.
    """

    autocast: Autocast
    emulated: bool

    @classmethod
    def now(cls, tensors: Iterable[Any]) -> "Arithmetic":
        """That of this moment.

        Args:
            tensors: On whose devices it matters, beside the CPU; what is none is left out.
        """
        kinds = {"cpu", *(x.device.type for x in tensors if isinstance(x, Tensor))}
        autocast = {
            kind: (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))
            for kind in sorted(kinds)
            if torch.amp.is_autocast_available(kind)
        }
        return cls(autocast, is_emulating())

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Within it, products are made like that."""
        with ExitStack() as stack:
            for kind, (is_on, dtype) in self.autocast.items():
                stack.enter_context(torch.autocast(kind, dtype, enabled=is_on))
            if self.emulated:
                stack.enter_context(emulated_fp16())
            yield


@dataclass(frozen=True)
class Arrival:
    """A gradient that arrived at an output of a call.

    Attributes:
        task: Number of the backward pass, larger for a later one.
        made: Calls of the step that had been made by then.
        place: The output's, among the leaves of what the call gave.
        gradient: What arrived.
        arithmetic: Of the pass.
    """

    task: int
    made: int
    place: int
    gradient: Tensor
    arithmetic: Arithmetic


@dataclass
class Call:
    """One call of a module, kept by reference until its step, or a finite pass of it, is over.

    Attributes:
        number: Of the step's calls, from 0.
        module: That was called.
        args: With which it was, positional and by name.
        kwargs: The latter.
        versions: Of the tensors among them, which the loop may change in place afterwards.
        modes: Whether each module of the model, by name, was in training mode.
        random: State of the random generators.
        arithmetic: In which it was made.
        line: Of the program, that made it.
        arrivals: The gradients of its outputs.
        returned: Whether it did: one that raised, as its memory ran out, gave nothing to repeat.
    """

    number: int
    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    versions: list[int]
    modes: Mapping[str, bool]
    random: Generators
    arithmetic: Arithmetic
    line: str
    arrivals: list[Arrival] = field(default_factory=list)
    returned: bool = False

    @property
    def gradients(self) -> dict[int, Tensor]:
        """What arrived at each output by its place, in all passes where the loop kept the graph."""
        found: dict[int, Tensor] = {}
        for one in self.arrivals:
            before = found.get(one.place)
            found[one.place] = one.gradient if before is None else before + one.gradient
        return found

    @property
    def is_as_given(self) -> bool:
        """Whether nothing of what it was given has been changed since."""
        return versions(self.args, self.kwargs) == self.versions


def versions(args: Any, kwargs: Any) -> list[int]:
    """How often each tensor among the arguments has been changed."""
    return [version_of(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
