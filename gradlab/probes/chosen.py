"""Which probes are at work on a model, and what `run.json` says of both."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from gradlab.errors import GradlabError, GradlabWarning
from gradlab.precision.device_facts import device_facts
from gradlab.probes.engine.recorder import recorded_of
from gradlab.probes.faults import dtype_name
from gradlab.probes.gradient_norms import GradientNorms
from gradlab.probes.headroom.probe import Headroom
from gradlab.probes.learned_scales import LearnedScales, learned_scales
from gradlab.probes.probe import Probe, Subject
from gradlab.probes.selection import is_compiled
from gradlab.probes.state_health import StateHealth


def default_probes(model: nn.Module, subject: Subject) -> tuple[Probe, ...]:
    """What is looked at unless told."""
    found: list[Probe] = [GradientNorms()]
    if learned_scales(subject):
        found.append(LearnedScales())
    if Headroom.looks_inside and _any_compiled(model):
        warnings.warn(
            "the model is compiled: headroom is not recorded. For it, attach to the model that is "
            "not compiled; to do without, name the probes.",
            GradlabWarning,
            stacklevel=4,
        )
    else:
        found.append(Headroom())
    found.append(StateHealth())
    return tuple(found)


def is_total(probe: Probe) -> bool:
    """Whether a probe sees every gradient, and so their total norm."""
    return isinstance(probe, GradientNorms) and probe.covers_all


def _any_compiled(model: nn.Module) -> bool:
    return any(is_compiled(module) for module in model.modules())


def check_compiled(model: nn.Module, probes: Sequence[Probe]) -> None:
    """Refuse a probe that cannot see inside a compiled model.

    Raises:
        GradlabError: There is one.
    """
    for probe in probes:
        if probe.looks_inside and _any_compiled(model):
            raise GradlabError(
                f"{type(probe).__name__} cannot see inside a compiled model: attach it to the "
                "model that is not compiled, or leave it out."
            )


def info_of(subject: Subject, probes: Sequence[Probe]) -> dict[str, Any]:
    """What `run.json` says of the model and its probes."""
    first = next(iter(subject.parameters.values()))
    trained = {name: subject.trained.get(name) for name in learned_scales(subject)}
    return {
        "model": type(subject.model).__name__,
        "params": sum(parameter.numel() for parameter in subject.model.parameters()),
        "device": device_facts(first.device),
        "narrow_scales": {
            name: dtype_name(scale.dtype)
            for name, scale in trained.items()
            if scale is not None and scale.dtype in (torch.float16, torch.bfloat16)
        },
        **recorded_of(probes),
    }
