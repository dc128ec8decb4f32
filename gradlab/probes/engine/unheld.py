"""Parameters that get gradients and that nobody trains: the optimizer was made without them."""

from collections.abc import Iterable

from torch import nn
from torch.optim import Optimizer

from gradlab.probes.probe import Subject


class Unheld:
    """Parameters with gradients that no optimizer holds and that no step changed.

    Args:
        subject: The model and what trains it.
        optimizers: Those followed, wrappers included: one that shards its work holds them all.
    """

    def __init__(self, subject: Subject, optimizers: Iterable[Optimizer]) -> None:
        groups = [group for o in optimizers for group in getattr(o, "param_groups", ())]
        held = {id(parameter) for group in groups for parameter in group["params"]}
        self._others: dict[str, nn.Parameter] = {
            name: parameter
            for name, parameter in subject.parameters.items()
            if groups and name not in subject.trained and id(parameter) not in held
        }
        self._versions: dict[str, int] | None = None

    def stepped(self) -> dict[str, nn.Parameter]:
        """A step has ended. At the second: those with a gradient that it did not change."""
        if not self._others:
            return {}
        now = {n: p._version for n, p in self._others.items() if p.grad is not None}
        before, self._versions = self._versions, now
        if before is None:
            return {}
        others, self._others = self._others, {}
        return {name: others[name] for name in now if before.get(name) == now[name]}
