"""What it takes to make a step's calls of a model again."""

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.hooks import RemovableHandle

from gradlab.precision.emulation import emulated_fp16, is_emulating
from gradlab.probes.operations.culprit import Culprit, source
from gradlab.probes.operations.generators import Generators, generators, set_generators
from gradlab.probes.operations.put_back import put_back
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
        emulated: Whether FP16 products were emulated.
        line: Of the program, that made it.
        gradients: That arrived at its outputs, by the output's place among the leaves.
        returned: Whether it did: one that raised, as its memory ran out, gave nothing to repeat.
    """

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    versions: list[int]
    random: Generators
    autocast: dict[str, tuple[bool, torch.dtype]]
    emulated: bool
    line: str
    gradients: dict[int, Tensor] = field(default_factory=dict)
    returned: bool = False


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

    @property
    def has_some(self) -> bool:
        """Whether a call has been made."""
        return any(call.returned for call in self._calls)

    def repeat(self) -> bool:
        """Make the step's calls again on the model itself, so that the hooks on it see them.

        The model must still be as it was, as for `again`. What the passes change is put back.

        Returns:
            Whether that could be done: not if what a call was given has been changed since, if it
            fails the second time, or within a backward pass, where a loop's own hooks may step.
        """
        model, calls = self._model, [call for call in self._calls if call.returned]
        self.end()
        if not calls or in_backward():
            return False
        try:
            with put_back(model):
                return all(_repeated(model, call) for call in calls)
        except Exception:  # as in `again`
            return False

    def _again(self) -> Culprit | None:
        model = copy.deepcopy(self._model)
        names = dict(self._model.named_modules())
        for call in self._calls:
            if not call.returned:
                continue
            name = next(name for name, module in names.items() if module is call.module)
            found = _again(model, model.get_submodule(name), call)
            if found is not None:
                return found
        return None

    def _on_call(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if not self._is_noting or not is_new_pass():
            return
        # A dict or list of the loop's own, which it may fill anew for the next call.
        args, kwargs = tree_map(lambda x: x, (args, kwargs))
        versions, autocast = _versions(args, kwargs), _autocast(args, kwargs)
        self._calls.append(
            _Call(module, args, kwargs, versions, generators(), autocast, is_emulating(), source())
        )

    def _on_output(self, module: nn.Module, args: Any, output: Any) -> None:
        if not is_new_pass():
            return
        own = (c for c in reversed(self._calls) if c.module is module and not c.returned)
        if (call := next(own, None)) is None:
            return
        call.returned = True
        for place, leaf in enumerate(tree_leaves(output)):
            if isinstance(leaf, Tensor) and leaf.requires_grad and not leaf.is_leaf:
                leaf.register_hook(_keeper(call, place))


def _keeper(call: _Call, place: int) -> Callable[[Tensor], None]:
    def keep(gradient: Tensor) -> None:
        before = call.gradients.get(place)  # of a pass before, where the loop kept the graph
        call.gradients[place] = gradient if before is None else before + gradient

    return keep


def _again(model: nn.Module, module: nn.Module, call: _Call) -> Culprit | None:
    trace = OperationTrace(model, within=_again.__code__, called_at=call.line)
    with _as_it_was(model, call), trace.following(module):
        is_whole = _pass(model, module, call, trace.ended)
    return trace.culprit if is_whole else None


def _repeated(model: nn.Module, call: _Call) -> bool:
    with _as_it_was(model, call):
        return _pass(model, call.module, call, lambda _: None)


@contextmanager
def _as_it_was(model: nn.Module, call: _Call) -> Iterator[None]:
    """The random generators, and the arithmetic that the call was made in."""
    set_generators(call.random)
    with ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        if any(map(is_compiled, model.modules())):  # a part of its own: a graph has no operations
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        for kind, (is_on, dtype) in call.autocast.items():
            stack.enter_context(torch.autocast(kind, dtype, enabled=is_on))
        if call.emulated:
            stack.enter_context(emulated_fp16())
        yield


def _pass(model: nn.Module, module: nn.Module, call: _Call, ended: Callable[[Any], None]) -> bool:
    """A call's forward and backward pass; False if they are not what they were.

    Args:
        model: The whole.
        module: Is called: the call's, or its copy.
        call: What it is given.
        ended: Told of the forward pass's output.
    """
    if _versions(call.args, call.kwargs) != call.versions:
        return False
    args, kwargs = tree_map(partial(_anew, {}), (call.args, call.kwargs))
    own = {*model.parameters(), *tree_leaves((args, kwargs))}
    output = module(*args, **kwargs)
    ended(output)
    leaves = tree_leaves(output)
    outputs = tuple(leaves[place] for place in call.gradients)
    if any(leaf not in own for leaf in _leaves(outputs)):
        return False  # it would be given its gradient a second time
    if outputs:
        _run_backward(outputs, tuple(g.clone() for g in call.gradients.values()))
    return True


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


def _autocast(args: Any, kwargs: Any) -> dict[str, tuple[bool, torch.dtype]]:
    tensors = (x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor))
    kinds = {"cpu", *(x.device.type for x in tensors)}
    return {
        kind: (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))
        for kind in kinds
        if torch.amp.is_autocast_available(kind)
    }
