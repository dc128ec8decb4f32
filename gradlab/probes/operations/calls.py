"""What it takes to make a step's calls of a model again."""

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.hooks import RemovableHandle

from gradlab.probes.operations.call import Arithmetic, Arrival, Call, versions
from gradlab.probes.operations.culprit import Culprit, source
from gradlab.probes.operations.generators import generators, set_generators
from gradlab.probes.operations.passes import as_it_was, forward, make_again
from gradlab.probes.operations.put_back import put_back
from gradlab.probes.operations.trace import OperationTrace
from gradlab.probes.selection import clean_name
from gradlab.probes.sites import in_backward


class Calls:
    """The current step's calls of a model with gradients, so that they can be made again.

    What the calls were given and the gradients that arrived at what they gave are kept by
    reference, with the state of the random generators; nothing is read or copied.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        # By names that a module keeps if torch.compile wraps it later.
        self._modules = {clean_name(name): module for name, module in model.named_modules()}
        self._calls: list[Call] = []
        self._made = 0
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
        self._made = 0
        self._is_noting = True

    def pass_ended(self, *, broken: bool) -> None:
        """A backward pass has ended. Its calls, finite ones, need not be kept for others to come.

        Args:
            broken: Whether something was not finite: then it is the calls up to now that count.
        """
        if broken:
            self._is_noting = False
        else:
            self._calls = [call for call in self._calls if not call.arrivals]

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

    @property
    def made(self) -> tuple[Call, ...]:
        """The step's calls so far, in their order."""
        return tuple(self._calls)

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
                return make_again(model, calls)
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
        self._calls.append(
            Call(
                self._made,
                module,
                args,
                kwargs,
                versions(args, kwargs),
                {name: one.training for name, one in self._modules.items()},
                generators(),
                Arithmetic.now(tree_leaves((args, kwargs))),
                source(),
            )
        )
        self._made += 1

    def _on_output(self, module: nn.Module, args: Any, output: Any) -> None:
        if not is_new_pass():
            return
        own = (c for c in reversed(self._calls) if c.module is module and not c.returned)
        if (call := next(own, None)) is None:
            return
        call.returned = True
        for place, leaf in enumerate(tree_leaves(output)):
            if isinstance(leaf, Tensor) and leaf.requires_grad and not leaf.is_leaf:
                leaf.register_hook(self._keeper(call, place))

    def _keeper(self, call: Call, place: int) -> Callable[[Tensor], None]:
        def keep(gradient: Tensor) -> None:
            task, arithmetic = torch._C._current_graph_task_id(), Arithmetic.now([gradient])
            call.arrivals.append(Arrival(task, self._made, place, gradient, arithmetic))

        return keep


def _again(model: nn.Module, module: nn.Module, call: Call) -> Culprit | None:
    trace = OperationTrace(model)
    if not call.is_as_given:
        return None
    with as_it_was(model, call), trace.following(module):
        made = forward(model, module, call)
        trace.ended(made.output)
        is_whole = made.backward(call.gradients)
    return trace.culprit if is_whole else None


def called_modules(model: nn.Module) -> list[nn.Module]:
    """The model; of a container without a forward pass of its own, the parts that have one."""
    if type(model).forward is not nn.Module.forward:
        return [model]
    return [called for part in model.children() for called in called_modules(part)]


def is_new_pass() -> bool:
    """Whether a call now is one of a forward pass that will have a backward pass."""
    return not torch.compiler.is_compiling() and torch.is_grad_enabled() and not in_backward()
