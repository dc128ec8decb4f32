"""Watches every operation of a forward pass, and its gradient in the backward pass."""

import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.overrides import resolve_name
from torch.utils._pytree import tree_leaves

from gradlab.parallel.spread import own_part
from gradlab.precision.emulation import is_emulating
from gradlab.probes.modes import PassMode
from gradlab.probes.operations.culprit import Culprit, Operation, culprit, signature, source
from gradlab.probes.operations.passes import forward
from gradlab.probes.sites import floats_of, version_of

_UNFILLED = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")
"""Functions whose result holds whatever the memory held: nothing that was computed."""

_CASTS = frozenset({"to", "float", "half", "bfloat16", "double", "type", "type_as", "view"})

_MOVES = frozenset(
    f"{name}Backward"
    for name in ("T", "Transpose", "Permute", "View", "Unsqueeze", "Squeeze", "ToCopy", "Expand")
)
"""Nodes of the graph that lie between a parameter and the product that uses it."""

_MASK = frozenset({-math.inf})


@dataclass(frozen=True)
class _State:
    """What is known of a tensor.

    Attributes:
        holds: Which of inf, -inf and NaN (as None) it holds.
        origin: The operation that is to blame for them; None if they were handed in, or written
            on purpose.
        on_purpose: Whether the program wrote them, as a mask's -inf.
    """

    holds: frozenset[float | None]
    origin: Culprit | None = None
    on_purpose: bool = False


_FINITE = _State(frozenset())


class OperationTrace(PassMode):
    """Which operation first gave something that is not finite, of operands that were.

    Every function of torch that the program calls within it is seen, with the line of the call;
    gradients by hooks on the nodes of the graph that the calls made. What the program writes on
    purpose, as `masked_fill(mask, -inf)` does, is no fault: what makes NaN of it is to blame.
    Each operand and result is read, at several times the cost of the pass.

    Args:
        model: Whose modules give operations their place.

    Attributes:
        forward: The first culprit of the forward pass.
        backward: That of the backward pass.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.forward: Culprit | None = None
        self.backward: Culprit | None = None
        self._names = {module: name for name, module in model.named_modules()}
        self._inside: list[str] = []
        self._of_a_result: Culprit | None = None
        self._of_a_parameter: Culprit | None = None
        self._known: dict[int, tuple[weakref.ref[Tensor], int, _State]] = {}
        self._nodes: set[Node] = set()

    @contextmanager
    def following(self, outermost: nn.Module) -> Iterator[None]:
        """Within a call of a module, its operations are seen, and know which part calls them."""
        self._inside = [self._names[outermost]]
        handles = []
        for module in self._names.keys() - {outermost}:  # its own hooks may be running now
            handles.append(module.register_forward_pre_hook(self._enter_module))
            handles.append(module.register_forward_hook(self._leave_module, always_call=True))
        try:
            self.turn(on=True)
            yield
        finally:
            self.turn(on=False)
            for handle in handles:
                handle.remove()

    @property
    def culprit(self) -> Culprit | None:
        """Who is to blame: for a result, else a gradient, a parameter's last, else for nothing."""
        return self._of_a_result or self.backward or self._of_a_parameter or self.forward

    def ended(self, output: Any) -> None:
        """A call has given its result."""
        for _, x in floats_of(output):
            self._of_a_result = self._of_a_result or self._state(x).origin

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call a function, and look at what it was given and what it gave."""
        kwargs = kwargs or {}
        given = _floats((args, kwargs))
        states = [self._state(x) for x in given]
        before = {node for x in given if (node := x.grad_fn) is not None}
        result = func(*args, **kwargs)
        made = _floats(result)
        if not made or _name(func) in _UNFILLED:
            return result
        written = _not_finite_numbers((args, kwargs))
        call: Operation | None = None
        for x in made:
            holds = _holds(x)
            is_new = x.grad_fn is not None and x.grad_fn not in self._nodes | before
            if not holds and not is_new:
                continue
            call = call or self._operation(func, args, kwargs, made[0])
            state = self._judge(x, holds, call, states, written) if holds else _FINITE
            self._note(x, state)
            if is_new:
                self._follow(x.grad_fn, before, call, [*states, state])
        return result

    def _operation(
        self, func: Any, args: Sequence[Any], kwargs: dict[str, Any], made: Tensor
    ) -> Operation:
        line = source(repeated=forward.__code__)
        casts = torch.is_autocast_enabled(made.device.type) or is_emulating()
        computed = made.dtype if casts and not _only_casts(_name(func)) else None
        return Operation(signature(func, args, kwargs, computed), line, self._inside[-1])

    def _enter_module(self, module: nn.Module, args: Any) -> None:
        self._inside.append(self._names[module])

    def _leave_module(self, module: nn.Module, args: Any, output: Any) -> None:
        self._inside.pop()

    def _note(self, x: Tensor, state: _State) -> None:
        if _is_freed(x):  # what comes there may count as no change of it
            return
        self._known[id(x)] = (weakref.ref(x), version_of(x), state)
        base = _base(x)
        if base is not None and state.holds:  # what was written into a view is in its base
            self._known[id(base)] = (weakref.ref(base), version_of(base), state)

    def _state(self, x: Tensor) -> _State:
        """What was found of a tensor, unless it has changed since; else what it holds now."""
        state = self._kept(x)
        if state is not None:
            return state
        holds, base = _holds(x), _base(x)
        state = _State(holds, on_purpose=holds == _MASK) if holds else _FINITE
        if holds and base is not None and (whole := self._kept(base)) is not None:
            state = _State(holds, whole.origin, whole.on_purpose)
        self._note(x, state)
        return state

    def _kept(self, x: Tensor) -> _State | None:
        if id(x) not in self._known:
            return None
        known, version, state = self._known[id(x)]
        return state if known() is x and version == version_of(x) else None

    def _judge(
        self,
        x: Tensor,
        holds: frozenset[float | None],
        call: Operation,
        states: Sequence[_State],
        written: frozenset[float | None],
    ) -> _State:
        """Who is to blame for what a result holds: this call, one before it, or nobody here."""
        for state in states:
            if state.origin is not None:
                return _State(holds, state.origin)
        if any(state.holds and not state.on_purpose for state in states):
            return _State(holds)
        if holds <= written.union(*(state.holds for state in states)):
            return _State(holds, on_purpose=True)
        found = culprit(x, call, "forward")
        self.forward = self.forward or found
        return _State(holds, found)

    def _follow(
        self, node: Node | None, before: set[Node], call: Operation, states: Sequence[_State]
    ) -> None:
        """Put hooks on a call's nodes of the graph, those that computed its operands left out."""
        # Of what was not finite in the forward pass already, its origin there is to blame.
        earlier = next((state for state in states if state.holds and not state.on_purpose), None)
        waiting = [node]
        while waiting:
            one = waiting.pop()
            if one is None or one in self._nodes or one in before:
                continue
            if one.name().endswith("AccumulateGrad"):
                continue
            self._nodes.add(one)
            to_parameters = [_ends_in_a_leaf(after) for after, _ in one.next_functions]
            one.register_hook(partial(self._on_node, call, earlier, to_parameters))
            waiting += [after for after, _ in one.next_functions]

    def _on_node(
        self,
        call: Operation,
        earlier: _State | None,
        to_parameters: Sequence[bool],
        gave: Sequence[Tensor | None],
        given: Any,
    ) -> None:
        if self.backward is not None or any(map(_holds, _floats(given))):
            return
        for x, ends in zip(gave, to_parameters, strict=True):
            if x is None or not _floats(x) or not _holds(x):
                continue
            found = earlier.origin if earlier else culprit(x, call, "backward")
            # No site is broken by it, unless it is FP16: then the parameter's gradient is one.
            if ends and x.dtype is not torch.float16:
                self._of_a_parameter = self._of_a_parameter or found
            else:
                self.backward = self.backward or found


def _ends_in_a_leaf(node: Node | None) -> bool:
    """Whether a gradient that goes there is a parameter's, up to its type and shape."""
    while node is not None and node.name().removesuffix("0") in _MOVES:
        ((node, _),) = node.next_functions
    return node is not None and node.name().endswith("AccumulateGrad")


def _only_casts(name: str) -> bool:
    """Whether a function's result has another type than its operand because the program says so."""
    return name in _CASTS or (name.endswith("_") and not name.endswith("__"))


def _floats(values: Any) -> list[Tensor]:
    with torch._C.DisableTorchFunction():
        return [x for _, x in floats_of(values)]


def _base(x: Tensor) -> Tensor | None:
    with torch._C.DisableTorchFunction():
        return x._base


def _name(func: Any) -> str:
    name: str = resolve_name(func) or getattr(func, "__name__", "")
    return name.rpartition(".")[2]


def _holds(x: Tensor) -> frozenset[float | None]:
    """Which of inf, -inf and NaN (as None) are in a tensor, or in this process's part of it."""
    with torch._C.DisableTorchFunction(), torch.no_grad():
        x = own_part(x)
        if not x.numel() or _is_freed(x) or torch.isfinite(x).all():
            return frozenset()
        kinds = {math.inf: torch.isposinf(x), -math.inf: torch.isneginf(x), None: torch.isnan(x)}
        return frozenset(kind for kind, where in kinds.items() if where.any())


def _is_freed(x: Tensor) -> bool:
    """Whether there is no memory to read, as FSDP2 has it of a layer's weights between its uses."""
    with torch._C.DisableTorchFunction(), torch.no_grad():
        return not own_part(x).untyped_storage().size()


def _not_finite_numbers(arguments: Any) -> frozenset[float | None]:
    """Those among the plain numbers that a function was given."""
    numbers = [x for x in tree_leaves(arguments) if isinstance(x, float) and not math.isfinite(x)]
    return frozenset(None if math.isnan(x) else x for x in numbers)
