"""What a model was given, as JSON and tensors by name can hold it, and back.

Plain values stand for themselves. Everything else is an object of one key, which says what it is:

    {"tuple": [{"tensor": "calls.0.0", "device": "cuda:0", ...}, {"dict": [["scale", 2.0]]}]}

Nothing is imported or called by a name that a file has. The one exception are Hugging Face's
outputs: their class is looked up among those that the program has imported already.
"""

import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gradlab.errors import GradlabError

_PLAIN = (bool, int, float, str, type(None))
_HOME_OF_OUTPUTS = "transformers.utils.generic"


class NotKeptError(GradlabError):
    """Something is neither a tensor nor what JSON can hold."""


class Encoder:
    """Makes JSON of values; the tensors among them go into a dict.

    Attributes:
        tensors: By name, on the CPU.
    """

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._known: dict[int, tuple[Tensor, Any]] = {}

    def encode(self, value: Any, name: str, what: str) -> Any:
        """JSON of a value. A tensor that was met before is the same one again.

        Args:
            value: The value.
            name: For its tensors.
            what: It is, for the error: `the argument labels`.

        Raises:
            NotKeptError: There is something that cannot be held.
        """
        if isinstance(value, Tensor):
            return self._tensor(value, name, what)
        if type(value) in _PLAIN:
            return value

        def each(values: Any) -> list[Any]:
            found = enumerate(values)
            return [self.encode(x, f"{name}.{index}", what) for index, x in found]

        if type(value) in (list, tuple, torch.Size):
            return {"size" if isinstance(value, torch.Size) else type(value).__name__: each(value)}
        if type(value) is dict:
            return {"dict": each(tuple(pair) for pair in value.items())}
        if isinstance(value, Mapping) and isinstance(value, _base_of_outputs()):
            kind = f"{type(value).__module__}:{type(value).__qualname__}"
            return {"output": [kind, *each(tuple(pair) for pair in value.items())]}
        if isinstance(value, torch.dtype | torch.device):
            return {type(value).__name__: str(value).removeprefix("torch.")}
        raise NotKeptError(f"{what} holds a {type(value).__name__}, which JSON cannot hold")

    def store(self, x: Tensor, name: str, what: str) -> None:
        """Keep a tensor under a name of its own.

        Raises:
            NotKeptError: It is of a kind that is not kept.
        """
        if type(x) not in (Tensor, nn.Parameter) or x.layout is not torch.strided:
            kind = type(x).__name__ if type(x) is not Tensor else str(x.layout)
            raise NotKeptError(f"{what} holds a tensor of a kind that is not kept ({kind})")
        if x.is_meta or x.is_quantized or x.is_nested:
            raise NotKeptError(f"{what} holds a tensor that is quantised, nested or without data")
        whole = x.detach().resolve_conj().resolve_neg()
        self.tensors[name] = whole.to("cpu", copy=True).contiguous()

    def _tensor(self, x: Tensor, name: str, what: str) -> Any:
        if id(x) in self._known:
            return self._known[id(x)][1]
        part = x.detach() if type(x) is nn.Parameter else x
        if x.layout is torch.strided and not x.is_nested:
            for dim, (size, stride) in enumerate(zip(x.shape, x.stride(), strict=True)):
                if size > 1 and stride == 0:  # as a sum's gradient: one number in memory
                    part = part.narrow(dim, 0, 1)
        self.store(part, name, what)
        told = {
            "tensor": name,
            "size": list(x.shape),
            # In memory as it was: a product's bits may depend on that.
            "stride": list(torch.empty_like(part, device="meta").stride()),
            "device": str(x.device),
            "requires_grad": x.requires_grad,
        }
        self._known[id(x)] = x, told  # which keeps its id from being given to another
        return told


class Decoder:
    """Makes values of JSON and tensors.

    Args:
        tensors: By name.
        device: From the device that a tensor was on to the one where it is to be.
    """

    def __init__(
        self, tensors: Mapping[str, Tensor], device: Callable[[str], torch.device]
    ) -> None:
        self._tensors = tensors
        self._device = device
        self._known: dict[str, Tensor] = {}

    def decode(self, told: Any) -> Any:
        """The value.

        Raises:
            GradlabError: It is of a class that the program has not imported.
            KeyError, TypeError, ValueError, AttributeError: It is none that `Encoder` made.
        """
        if type(told) in _PLAIN:
            return told
        if "tensor" in told:
            return self._tensor(told)
        ((kind, held),) = told.items()
        if kind in ("dtype", "device"):
            return torch.device(held) if kind == "device" else dtype_named(held)
        if kind == "output":
            name, *pairs = held
            return _output_class(name)(**dict(map(self.decode, pairs)))
        values = map(self.decode, held)
        made = {"list": list, "tuple": tuple, "size": torch.Size, "dict": dict}[kind]
        return made(values)

    def _tensor(self, told: Mapping[str, Any]) -> Tensor:
        name = told["tensor"]
        if name not in self._known:
            part, device = self._tensors[name], self._device(told["device"])
            x = torch.empty_strided(part.shape, told["stride"], dtype=part.dtype, device=device)
            x = x.copy_(part).expand(told["size"])
            self._known[name] = x.requires_grad_(told["requires_grad"])
        return self._known[name]


def dtype_named(name: str) -> torch.dtype:
    """The type of that name, `float16`.

    Raises:
        ValueError: There is none.
    """
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"{name} is no dtype")
    return found


def _base_of_outputs() -> tuple[type, ...]:
    """Hugging Face's class of what models give, if the program has imported it."""
    found = getattr(sys.modules.get(_HOME_OF_OUTPUTS), "ModelOutput", None)
    return (found,) if isinstance(found, type) else ()


def _output_class(name: str) -> type:
    """A class of Hugging Face's outputs.

    Raises:
        GradlabError: The program has none of that name.
    """
    module, _, kind = name.partition(":")
    found = getattr(sys.modules.get(module), kind, None)
    if not isinstance(found, type) or not issubclass(found, _base_of_outputs()):
        raise GradlabError(
            f"the model was given a {kind}, of Hugging Face's outputs: import {module} first."
        )
    return found
