"""From what was kept of a step back to a model, its calls, its optimizers and its scaler."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from gradlab.crash.content import buffers_of, parameters_of
from gradlab.crash.values import Decoder, dtype_named
from gradlab.errors import GradlabError
from gradlab.probes.operations.call import Arithmetic, Arrival, Call, versions
from gradlab.probes.operations.generators import Generators
from gradlab.probes.selection import clean_name
from gradlab.training.checkpoint import Checkpoint

Optimizer = torch.optim.Optimizer

_NAMED = 3


class Restored:
    """A kept step, for a model.

    Args:
        kept: The step.
        model: That it is of, which holds other numbers now.

    Raises:
        GradlabError: It is of another model.
    """

    def __init__(self, kept: Checkpoint, model: nn.Module) -> None:
        self.facts, self._tensors, self._model = kept.facts, kept.tensors, model
        self._own = {**parameters_of(model), **buffers_of(model)}
        names = [*self.facts["parameters"], *self.facts["buffers"]]
        self._values = {name: self._tensors[f"model.{name}"] for name in names}
        if differences := _differences(self._values, self._own):
            shown = "; ".join(differences[:_NAMED])
            more = len(differences) - _NAMED
            raise GradlabError(
                f"step {self.facts['step']} was kept of another model, a {self.facts['model']}: "
                f"{shown}{f'; and {more} more' if more > 0 else ''}."
            )
        self._device = next(iter(self._own.values())).device
        self._decoder = Decoder(self._tensors, self._device_for)

    def load(self) -> None:
        """Give the model the parameters and buffers that it had before the step."""
        with torch.no_grad():
            for name, x in self._own.items():
                x.copy_(self._values[name])

    def calls(self) -> list[Call]:
        """The step's calls of the model."""
        modules = {clean_name(name): module for name, module in self._model.named_modules()}
        calls: list[Call] = []
        for told in self.facts["calls"]:
            args = tuple(map(self._decoder.decode, told["args"]))
            kwargs = {name: self._decoder.decode(x) for name, x in told["kwargs"].items()}
            training = set(told["training"])
            random = self._random(told["random"], calls[-1].random if calls else None)
            calls.append(
                Call(
                    told["number"],
                    modules[told["module"]],
                    args,
                    kwargs,
                    versions(args, kwargs),
                    {name: name in training for name in modules},
                    random,
                    self._arithmetic(told["arithmetic"]),
                    told["line"],
                    [self._arrival(one) for one in told["arrivals"]],
                    told["returned"],
                )
            )
        return calls

    def scaler(self) -> GradScaler | None:
        """The scaler; None if there was none, or it was off."""
        if not self.facts["scaler"]:
            return None
        scaler = GradScaler(self._device.type)
        scaler.load_state_dict(self.facts["scaler"])
        return scaler

    def optimizers(self, given: Sequence[Optimizer]) -> list[Optimizer]:
        """The optimizers with the state they had; none if they are not torch's and none is given.

        Args:
            given: By the user.

        Raises:
            GradlabError: Those are others.
        """
        told = self.facts["optimizers"]
        if given and len(given) != len(told):
            raise GradlabError(
                f"{len(told)} optimizers were kept and {len(given)} are given: give as many, or "
                "none."
            )
        made = list(given) or [one for of in told if (one := self._optimizer(of)) is not None]
        if len(made) < len(told):
            return []
        for one, of in zip(made, told, strict=True):
            if of["kind"] not in (kind.__name__ for kind in type(one).__mro__):
                raise GradlabError(
                    f"the optimizer that is given is a {type(one).__name__}, and {of['kind']} was "
                    "kept: give one of its kind."
                )
            groups = self._decoder.decode(of["options"])
            counts = iter(range(sum(map(len, of["params"]))))
            groups = [
                {**options, "params": [next(counts) for _ in names]}
                for options, names in zip(groups, of["params"], strict=True)
            ]
            try:
                one.load_state_dict(
                    {"state": self._decoder.decode(of["state"]), "param_groups": groups}
                )
            except ValueError as error:
                raise GradlabError(
                    f"the optimizer that is given is another than the {of['kind']} that was kept: "
                    f"{error}."
                ) from error
        return made

    def _optimizer(self, told: Mapping[str, Any]) -> Optimizer | None:
        kind: Any = getattr(torch.optim, told["kind"], None)
        is_one = isinstance(kind, type) and issubclass(kind, Optimizer) and kind is not Optimizer
        if not is_one or not told["is_torchs"] or any(None in names for names in told["params"]):
            return None
        groups = zip(self._decoder.decode(told["options"]), told["params"], strict=True)
        made: Optimizer = kind(
            [{**options, "params": [self._own[n] for n in names]} for options, names in groups]
        )
        return made

    def _device_for(self, kept: str) -> torch.device:
        """Where a tensor is to be that was there when it was kept."""
        device = torch.device(kept)
        if kept == self.facts["device"] or not _is_here(device):
            return self._device
        return device

    def _random(self, told: Mapping[str, Any], before: Generators | None) -> Generators:
        tensors: dict[str, Tensor] = self._decoder.decode(told["torch"])
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        cuda = {i: x for i in range(count) if (x := tensors.get(f"cuda.{i}")) is not None}
        python, numpy = told["python"], told["numpy"]
        if python is not None:
            python = (python[0], tuple(python[1]), python[2])
        if numpy is not None:
            numpy = (numpy[0], np.array(numpy[1], dtype=np.uint32), *numpy[2:])
        if before is not None:
            python, numpy = python or before.python, numpy or before.numpy
        return Generators(python, numpy, tensors["cpu"], cuda)

    def _arrival(self, told: Mapping[str, Any]) -> Arrival:
        return Arrival(
            told["task"],
            told["made"],
            told["place"],
            self._decoder.decode(told["gradient"]),
            self._arithmetic(told["arithmetic"]),
        )

    def _arithmetic(self, told: Mapping[str, Any]) -> Arithmetic:
        """That of then; on a CPU instead of a GPU, FP16 is emulated as on all of them."""
        autocast = {
            kind: (is_on, dtype_named(dtype)) for kind, (is_on, dtype) in told["autocast"].items()
        }
        was, now = torch.device(self.facts["device"]).type, self._device.type
        if was in autocast:
            autocast[now] = autocast.pop(was)
        return Arithmetic(
            {kind: x for kind, x in autocast.items() if kind in ("cpu", now)},
            told["emulated"] or (now == "cpu" and was != "cpu"),
        )


def _is_here(device: torch.device) -> bool:
    """Whether this machine has a device."""
    if device.type == "cuda":
        return torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
    return device.type == "cpu"


def _differences(kept: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """What a model has otherwise than one whose values were kept, in words."""
    found = [f"{name} is missing here" for name in kept if name not in own]
    found += [f"{name} is here alone" for name in own if name not in kept]
    for name, x in kept.items():
        if name in own and (x.shape, x.dtype) != (own[name].shape, own[name].dtype):
            found.append(f"{name} is {_kind(own[name])} here and was {_kind(x)}")
    return found


def _kind(x: Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}"
