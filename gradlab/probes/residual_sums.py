"""Where a layer adds a branch to its skip: the residual sums of any model, as they are computed."""

import threading
from typing import Any

import torch
from torch import Tensor, nn

from gradlab.probes.attention.bounds import aside
from gradlab.probes.modes import PassMode

_SUMS = frozenset({torch.add, Tensor.add, Tensor.add_})
_PRODUCTS = ("Mm", "mm", "Linear", "Convolution", "ScaledDotProduct")
_WALK = 64
"""Nodes of the graph that are looked at to tell a branch from a skip."""


class ResidualSums(PassMode):
    """Sees the sums of two tensors of the shape of a layer's input, one of them a branch.

    A branch comes out of a matrix: on the way back from it to what the layer was given, or to the
    sum before, there is a product. A skip has none there, whatever norm or factor it passed. The
    sum of two branches, as parallel attention and FFN make it, is no residual sum.

    It is entered as a layer's forward pass begins and left as it ends; every call goes on as it
    would have gone. With several devices, each thread has its own layer.
    """

    def __init__(self) -> None:
        super().__init__()
        self._local = _Local()

    def enter(self, x: Tensor) -> None:
        """A layer is given `x`."""
        self._local.shape, self._local.found = x.shape, []
        self._local.stream = [] if x.grad_fn is None else [x.grad_fn]
        self.turn(on=True)

    def leave(self) -> list[tuple[Tensor, Tensor]]:
        """The layer has ended or was broken off: (‖branch‖, ‖skip‖) of its sums, in order."""
        self.turn(on=False)
        found, self._local.found, self._local.stream = self._local.found, [], []
        return found

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Look at what a sum is given, then make the call."""
        kwargs = kwargs or {}
        if func not in _SUMS or torch.compiler.is_compiling():
            return func(*args, **kwargs)
        is_residual = len(args) == 2 and not kwargs and self._look(*args)
        result = func(*args, **kwargs)
        if is_residual and result.grad_fn is not None:
            self._local.stream.append(result.grad_fn)
        return result

    def _look(self, one: Any, other: Any) -> bool:
        """Whether it is a residual sum; notes the norms if so."""
        shape = self._local.shape
        if not all(isinstance(x, Tensor) and x.shape == shape for x in (one, other)):
            return False
        is_branch = [self._is_branch(x) for x in (one, other)]
        if is_branch[0] == is_branch[1]:
            return False
        branch, skip = (one, other) if is_branch[0] else (other, one)
        with aside(branch.device):
            self._local.found.append((norm(branch), norm(skip)))
        return True

    def _is_branch(self, x: Tensor) -> bool:
        nodes = [x.grad_fn]
        for at in range(_WALK):
            if at >= len(nodes):
                return False
            node = nodes[at]
            if node is None or any(node is known for known in self._local.stream):
                continue
            weight = getattr(node, "variable", None)
            if isinstance(weight, nn.Parameter):  # a norm's and a factor's are vectors
                if weight.dim() > 1:
                    return True
            elif any(product in node.name() for product in _PRODUCTS):
                return True
            nodes += [given for given, _ in node.next_functions]
        return True  # a norm is shorter


class _Local(threading.local):
    """What one thread executes."""

    def __init__(self) -> None:
        self.shape: torch.Size | None = None
        self.found: list[tuple[Tensor, Tensor]] = []
        self.stream: list[Any] = []


def norm(x: Tensor) -> Tensor:
    """L2 norm over all entries, 0-dim; in fp32 or wider."""
    found: Tensor = torch.linalg.vector_norm(x, dtype=torch.promote_types(x.dtype, torch.float32))
    return found
