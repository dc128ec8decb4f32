"""Parameters that are trained only later: probes have no hooks on them."""

import warnings

from torch import nn

from gradlab.errors import GradlabWarning
from gradlab.probes.probe import Subject
from gradlab.probes.selection import clean_name


class Unfrozen:
    """Says once that a step trains parameters that were frozen, or not there, at attach.

    Args:
        subject: The model and what trains it.
    """

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._held = -1
        self._unseen: dict[str, nn.Parameter] = {}

    def look(self, step: int) -> None:
        """An optimizer is about to step. Of the parameters only those without hooks are asked."""
        if self._held != (held := sum(len(group["params"]) for group in self._groups())):
            self._held = held
            self._unseen = self._without_hooks()
        for name, parameter in self._unseen.items():
            if parameter.requires_grad and parameter.grad is not None:
                self._say(name, step)
                return

    def _groups(self) -> list[dict[str, list[nn.Parameter]]]:
        return [group for one in self._subject.optimizers for group in one.param_groups]

    def _without_hooks(self) -> dict[str, nn.Parameter]:
        held = {id(parameter) for group in self._groups() for parameter in group["params"]}
        named = {clean_name(n): p for n, p in self._subject.model.named_parameters()}
        return {
            name: parameter
            for name, parameter in named.items()
            if id(parameter) in held and parameter is not self._subject.parameters.get(name)
        }

    def _say(self, name: str, step: int) -> None:
        self._unseen = {}
        warnings.warn(
            f"{name} is trained from step {step} on, and was not when probes were attached: "
            "neither grad_norm nor any table has its gradients. Close the probes and attach again "
            "where parameters are unfrozen or added.",
            GradlabWarning,
            stacklevel=2,
        )
