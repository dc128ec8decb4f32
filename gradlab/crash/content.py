"""All that is kept of a step: JSON and tensors of its calls, and of what trains the model."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from gradlab.crash.values import Encoder, NotKeptError
from gradlab.precision.device_facts import bits_depend_on, device_facts
from gradlab.probes.operations.call import Arithmetic, Arrival, Call
from gradlab.probes.operations.generators import Generators
from gradlab.probes.probe import Subject
from gradlab.probes.selection import clean_name
from gradlab.training.checkpoint import Checkpoint

Optimizer = torch.optim.Optimizer


def content(
    step: int,
    why: Sequence[str],
    subject: Subject,
    calls: Sequence[Call],
    *,
    buffers: Mapping[str, Tensor],
    scaler: GradScaler | None,
    losses: Sequence[float],
    reached: bool,
) -> Checkpoint:
    """What is kept of a step that has not changed parameters, optimizer and scaler yet.

    Args:
        step: Its number.
        why: It is kept, a word each.
        subject: The model and what trains it.
        calls: Of the model, with gradients.
        buffers: As they were before the first call.
        scaler: That scales the loss, if there is one.
        losses: That the loop told of.
        reached: Whether it came to the optimizer.

    Raises:
        NotKeptError: A call was given something that can be neither in JSON nor a tensor.
    """
    encoder = Encoder()
    names = {module: clean_name(name) for name, module in subject.model.named_modules()}
    told_calls = []
    before: Generators | None = None
    for call in calls:
        told_calls.append(_call(call, names, before, encoder))
        before = call.random
    kept = parameters_of(subject.model)
    for name, x in {**kept, **buffers}.items():
        encoder.store(x, f"model.{name}", name)
    facts = {
        "step": step,
        "why": list(why),
        "model": type(subject.model).__name__,
        "parameters": list(kept),
        "buffers": list(buffers),
        "frozen": [name for name, x in kept.items() if not x.requires_grad],
        "device": str(next(iter(kept.values())).device),
        "calls": told_calls,
        "scaler": scaler.state_dict() if scaler is not None else None,
        "losses": list(losses),
        "reached": reached,
        "made_on": bits_depend_on(device_facts(next(iter(kept.values())).device)),
    }
    try:
        facts["optimizers"] = [
            _optimizer(index, one, subject, encoder) for index, one in enumerate(subject.optimizers)
        ]
    except NotKeptError as error:  # the passes can be made again without it
        facts["optimizers"], facts["without_optimizers"] = [], str(error)
    return Checkpoint(facts, encoder.tensors)


def parameters_of(model: nn.Module) -> dict[str, Tensor]:
    """A model's parameters by name, each once."""
    return {clean_name(name): x for name, x in model.named_parameters()}


def buffers_of(model: nn.Module) -> dict[str, Tensor]:
    """Its buffers by name, each once, those that `state_dict` leaves out included."""
    return {clean_name(name): x for name, x in model.named_buffers()}


def _call(
    call: Call, names: Mapping[nn.Module, str], before: Generators | None, encoder: Encoder
) -> dict[str, Any]:
    name = f"calls.{call.number}"
    arguments = {
        f"the model's argument {key}": value
        for key, value in (*enumerate(call.args), *call.kwargs.items())
    }
    encoded = [
        encoder.encode(x, f"{name}.{n}", what) for n, (what, x) in enumerate(arguments.items())
    ]
    return {
        "number": call.number,
        "module": names[call.module],
        "args": encoded[: len(call.args)],
        "kwargs": dict(zip(call.kwargs, encoded[len(call.args) :], strict=True)),
        "training": [name for name, on in call.modes.items() if on],
        "random": _random(call.random, before, name, encoder),
        "arithmetic": _arithmetic(call.arithmetic),
        "line": call.line,
        "returned": call.returned,
        "arrivals": [
            _arrival(one, f"{name}.gradient.{n}", encoder) for n, one in enumerate(call.arrivals)
        ],
    }


def _random(
    state: Generators, before: Generators | None, name: str, encoder: Encoder
) -> dict[str, Any]:
    tensors = {"cpu": state.cpu, **{f"cuda.{i}": x for i, x in state.cuda.items()}}
    algorithm, keys, *rest = state.numpy
    python: Any = [state.python[0], list(state.python[1]), state.python[2]]
    numpy: Any = [algorithm, keys.tolist(), *rest]
    if before is not None:  # few models draw from these, and each has 624 numbers
        python = None if state.python == before.python else python
        is_same = (keys == before.numpy[1]).all() and rest == list(before.numpy[2:])
        numpy = None if is_same else numpy
    held = encoder.encode(tensors, f"{name}.random", "the random state")
    return {"torch": held, "python": python, "numpy": numpy}


def _arithmetic(of: Arithmetic) -> dict[str, Any]:
    autocast = {kind: [on, str(dtype)[6:]] for kind, (on, dtype) in of.autocast.items()}
    return {"autocast": autocast, "emulated": of.emulated}


def _arrival(one: Arrival, name: str, encoder: Encoder) -> dict[str, Any]:
    gradient = encoder.encode(one.gradient, name, "the gradient of an output of the model")
    arithmetic = _arithmetic(one.arithmetic)
    told = {"task": one.task, "made": one.made, "place": one.place}
    return {**told, "gradient": gradient, "arithmetic": arithmetic}


def _optimizer(index: int, of: Optimizer, subject: Subject, encoder: Encoder) -> dict[str, Any]:
    """Its kind, groups and state; parameters by name, null for what is not the model's."""
    names = {id(x): name for name, x in parameters_of(subject.model).items()}
    held = of.state_dict()
    what = f"the optimizer ({type(of).__name__})"
    options = [{k: x for k, x in g.items() if k != "params"} for g in held["param_groups"]]
    return {
        "kind": type(of).__name__,
        "is_torchs": type(of) is getattr(torch.optim, type(of).__name__, None),
        "params": [[names.get(id(x)) for x in group["params"]] for group in of.param_groups],
        "options": encoder.encode(options, f"optimizers.{index}.options", what),
        "state": encoder.encode(held["state"], f"optimizers.{index}.state", what),
    }
