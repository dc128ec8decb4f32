"""What probes see of a user's model and of the optimizers that train it."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from gradlab.errors import GradlabError
from gradlab.probes.probe import Subject
from gradlab.probes.selection import clean_name, unwrapped

Optimizer = torch.optim.Optimizer


def subject_of(model: nn.Module, optimizers: tuple[Optimizer, ...]) -> Subject:
    """What probes see of a model and of the optimizers that train it.

    Raises:
        GradlabError: The model is none, has nothing to train, is on a device where probes do not
            work, or none of it is the optimizers'.
    """
    if not isinstance(model, nn.Module):
        raise GradlabError(
            f"model = {type(model).__name__}: attach takes the model first, a Module."
        )
    inner = unwrapped(model)
    parameters = {clean_name(n): p for n, p in inner.named_parameters() if p.requires_grad}
    if not parameters:
        raise GradlabError("the model has no parameters that require gradients: nothing to probe.")
    if any(parameter.device.type == "mps" for parameter in parameters.values()):
        raise GradlabError(
            "the model is on MPS, which has no float64: probes work on a CPU or with CUDA."
        )
    held = {id(p) for o in optimizers for group in o.param_groups for p in group["params"]}
    trained: dict[str, Tensor] = {n: p for n, p in parameters.items() if id(p) in held}
    for one in optimizers:
        own = {id(p) for group in one.param_groups for p in group["params"]}
        if not any(id(p) in own for p in parameters.values()):
            raise GradlabError(
                f"the optimizer ({type(one).__name__}) holds none of the model's parameters: make "
                "it from this model's parameters, after moving or sharding the model."
            )
    modules = {clean_name(n): m for n, m in inner.named_modules() if clean_name(n)}
    return Subject(inner, parameters, modules, trained, optimizers)


def optimizers_of(given: Optimizer | Iterable[Optimizer] | None) -> tuple[Optimizer, ...]:
    """The torch optimizers that a user gave: one, several or none.

    Raises:
        GradlabError: Something else was given.
    """
    if given is None:
        return ()
    several = list(given) if isinstance(given, Iterable) else [given]
    for one in several:
        if not isinstance(one, Optimizer):
            raise GradlabError(
                f"optimizer = {type(one).__name__}: give the torch optimizer, or a list of several."
            )
    # Accelerate's and others' wrappers, themselves optimizers, keep the real one under this name.
    return tuple(
        inner if isinstance(inner := getattr(one, "optimizer", None), Optimizer) else one
        for one in several
    )
