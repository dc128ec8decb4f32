"""What probes see of a user's model and of the optimizers that train it."""

from collections.abc import Container, Iterable, Mapping

import torch
from torch import Tensor, nn

from gradlab.errors import GradlabError
from gradlab.probes.probe import Subject
from gradlab.probes.selection import clean_name, unwrapped

Optimizer = torch.optim.Optimizer


def subject_of(model: nn.Module, optimizers: tuple[Optimizer, ...]) -> Subject:
    """What probes see of a model and of the optimizers that train it.

    Raises:
        GradlabError: The model is none, has nothing to train, has parameters without a shape, is
            on a device where probes do not work, or none of it is the optimizers'.
    """
    if not isinstance(model, nn.Module):
        raise GradlabError(
            f"model = {type(model).__name__}: attach takes the model first, a Module."
        )
    inner = unwrapped(model)
    _refuse_lazy(inner)
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


def _refuse_lazy(model: nn.Module) -> None:
    for name, kept in (*model.named_parameters(), *model.named_buffers()):
        if nn.parameter.is_lazy(kept):
            raise GradlabError(
                f"{clean_name(name)} has no shape yet, as its module is lazy: give the model one "
                "batch, under torch.no_grad(), before attach."
            )


def optimizers_of(
    given: Optimizer | Iterable[Optimizer] | None,
) -> dict[Optimizer, Optimizer]:
    """The optimizers that a user gave, and what they are wrapped around: each with the inmost one.

    Accelerate's optimizer, Lookahead, SAM and others are wrapped around the one that holds the
    parameters and their state; a step of theirs is a step of its.

    Raises:
        GradlabError: Something else was given.
    """
    several = [] if given is None else list(given) if isinstance(given, Iterable) else [given]
    found: dict[Optimizer, Optimizer] = {}
    for one in several:
        if not isinstance(one, Optimizer):
            raise GradlabError(
                f"optimizer = {type(one).__name__}: give the torch optimizer, or a list of several."
            )
        chain = [one]
        while (inner := _wrapped_in(chain[-1])) is not None and inner not in chain:
            chain.append(inner)
        found |= dict.fromkeys(chain, chain[-1])
    return found


def _wrapped_in(optimizer: Optimizer) -> Optimizer | None:
    """The one optimizer that another one keeps as an attribute, whatever its name."""
    kept = [value for value in vars(optimizer).values() if isinstance(value, Optimizer)]
    return kept[0] if len(kept) == 1 else None


def held_by(optimizer: torch.optim.Optimizer, subject: Subject) -> dict[str, nn.Parameter]:
    """What an optimizer trains of the model, by name."""
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return {n: subject.parameters[n] for n, p in subject.trained.items() if id(p) in held}


def left_over(held: Mapping[int, Iterable[str]], stepped: Container[int]) -> frozenset[str]:
    """The parameters whose optimizers did not step: a gradient there is of another step.

    Args:
        held: What each optimizer trains, by its id.
        stepped: The ids of those that did.
    """
    own, others = set[str](), set[str]()
    for optimizer, names in held.items():
        (own if optimizer in stepped else others).update(names)
    return frozenset(others - own)
