"""What it takes to make a step's calls of a model again."""

import copy
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.hooks import RemovableHandle

from gradlab.probes.operations.culprit import Culprit, source
from gradlab.probes.operations.generators import Generators, generators, set_generators
from gradlab.probes.operations.trace import OperationTrace
from gradlab.probes.selection import is_compiled
from gradlab.probes.sites import in_backward, version_of


@dataclass
class _Call:
    """One call of a module, kept by reference until its step, or a finite pass of it, is over.

    Attributes:
        module: That was called.
        args: With which it was, positional and by name.
        kwargs: The latter.
        versions: Of the tensors among them, which the loop may change in place afterwards.
        random: State of the random generators.
        autocast: By device type: whether it was on, and the dtype.
        line: Of the program, that made it.
        gradients: That arrived at its outputs, by the output's place among the leaves.
    """

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    versions: list[int]
    random: Generators
    autocast: dict[str, tuple[bool, torch.dtype]]
    line: str
    gradients: dict[int, Tensor] = field(default_factory=dict)


class Calls:
    """The current step's calls of a model with gradients, so that they can be made again.

    What the calls were given and the gradients that arrived at what they gave are kept by
    reference, with the state of the random generators; nothing is read or copied.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._calls: list[_Call] = []
        self._is_noting = True

    def hooks(self) -> Iterable[RemovableHandle]:
        """Hooks on the model, or on its parts where it is only a container of them."""
        handles = []
        for module in called_modules(self._model):
            handles.append(module.register_forward_pre_hook(self._on_call, with_kwargs=True))
            handles.append(module.register_forward_hook(self._on_output))
        return handles

    def begin(self) -> None:
        """A step starts."""
        self._calls = []
        self._is_noting = True

    def pass_ended(self, *, broken: bool) -> None:
        """A backward pass has ended. Its calls, finite ones, need not be kept for others to come.

        Args:
            broken: Whether something was not finite: then it is the calls up to now that count.
        """
        if broken:
            self._is_noting = False
        else:
            self._calls = [call for call in self._calls if not call.gradients]

    def end(self) -> None:
        """Keep nothing until a step starts."""
        self._calls = []
        self._is_noting = False

    def again(self) -> Culprit | None:
        """Make the step's calls again on a copy of the model, and find the operation to blame.

        The model must still be as it was: before the optimizer's step, or after one that was
        skipped. Neither it nor the state of any random generator is changed.

        Returns:
            The first culprit, forward before backward; None if no operation did it: something
            that was handed in was not finite already, or the calls cannot be made again.
        """
        before = generators()
        try:
            return self._again()
        except Exception:  # a model can hold anything and do anything, its second time
            return None
        finally:
            set_generators(before)

    def _again(self) -> Culprit | None:
        model = copy.deepcopy(self._model)
        names = dict(self._model.named_modules())
        for call in self._calls:
            name = next(name for name, module in names.items() if module is call.module)
            found = _again(model, model.get_submodule(name), call)
            if found is not None:
                return found
        return None

    def _on_call(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if not self._is_noting or not is_new_pass():
            return
        versions, autocast = _versions(args, kwargs), _autocast(args)
        self._calls.append(_Call(module, args, kwargs, versions, generators(), autocast, source()))

    def _on_output(self, module: nn.Module, args: Any, output: Any) -> None:
        if not is_new_pass():
            return
        call = next((c for c in reversed(self._calls) if c.module is module), None)
        if call is None:
            return
        for place, leaf in enumerate(tree_leaves(output)):
            if isinstance(leaf, Tensor) and leaf.requires_grad and not leaf.is_leaf:
                leaf.register_hook(_keeper(call, place))


def _keeper(call: _Call, place: int) -> Callable[[Tensor], None]:
    def keep(gradient: Tensor) -> None:
        call.gradients[place] = gradient

    return keep


def _again(model: nn.Module, module: nn.Module, call: _Call) -> Culprit | None:
    if _versions(call.args, call.kwargs) != call.versions:
        return None
    args, kwargs = tree_map(partial(_anew, {}), (call.args, call.kwargs))
    trace = OperationTrace(model, within=_again.__code__, called_at=call.line)
    own = {*model.parameters(), *tree_leaves((args, kwargs))}
    set_generators(call.random)
    with ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        if any(map(is_compiled, model.modules())):  # a part of its own: a graph has no operations
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        for kind, (is_on, dtype) in call.autocast.items():
            stack.enter_context(torch.autocast(kind, dtype, enabled=is_on))
        with trace.following(module):
            output = module(*args, **kwargs)
            trace.ended(output)
            leaves = tree_leaves(output)
            outputs = tuple(leaves[place] for place in call.gradients)
            if any(leaf not in own for leaf in _leaves(outputs)):
                return None  # it would be given its gradient a second time
            if outputs:
                gradients = tuple(g.clone() for g in call.gradients.values())
                _run_backward(outputs, gradients)
    return trace.culprit


def _run_backward(outputs: tuple[Tensor, ...], gradients: tuple[Tensor, ...]) -> None:
    """`torch.autograd.backward`, but with the trace on: checkpointing computes there again."""
    engine = torch.autograd.Variable._execution_engine
    engine.run_backward(
        outputs, gradients, False, False, (), allow_unreachable=True, accumulate_grad=True
    )


def called_modules(model: nn.Module) -> list[nn.Module]:
    """The model; of a container without a forward pass of its own, the parts that have one."""
    if type(model).forward is not nn.Module.forward:
        return [model]
    return [called for part in model.children() for called in called_modules(part)]


def is_new_pass() -> bool:
    """Whether a call now is one of a forward pass that will have a backward pass."""
    return not torch.compiler.is_compiling() and torch.is_grad_enabled() and not in_backward()


def _leaves(outputs: Iterable[Tensor]) -> Iterable[Tensor]:
    """Those that a backward pass from these gives a gradient."""
    waiting = [x.grad_fn for x in outputs]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        if node is None:
            continue
        if hasattr(node, "variable"):
            yield node.variable
        after = {one for one, _ in node.next_functions} - seen
        seen |= after
        waiting += after


def _anew(copied: dict[int, Any], x: Any) -> Any:
    """An argument to be given again: a tensor without its history, or a copy of something else."""
    if isinstance(x, Tensor):
        return x.detach().requires_grad_(x.requires_grad)
    return copy.deepcopy(x, copied)


def _versions(args: Any, kwargs: Any) -> list[int]:
    return [version_of(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]


def _autocast(args: Any) -> dict[str, tuple[bool, torch.dtype]]:
    kinds = {"cpu", *(x.device.type for x in tree_leaves(args) if isinstance(x, Tensor))}
    return {
        kind: (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))
        for kind in kinds
        if torch.amp.is_autocast_available(kind)
    }
