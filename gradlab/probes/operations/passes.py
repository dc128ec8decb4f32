"""Calls of a model made again, with the backward passes that followed, in the order they had."""

import copy
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.hooks import RemovableHandle

from gradlab.probes.operations.call import Arithmetic, Arrival, Call
from gradlab.probes.operations.generators import set_generators
from gradlab.probes.selection import clean_name, is_compiled


@dataclass(frozen=True)
class Made:
    """A call that was made again.

    Attributes:
        output: What it gave.
        own: What may get a gradient by it: the model's parameters and what the call was given.
    """

    output: Any
    own: frozenset[Any]

    def leaf(self, place: int) -> Tensor | None:
        """The output at a place among the leaves, if it is one that gets a gradient."""
        leaves = tree_leaves(self.output)
        x = leaves[place] if place < len(leaves) else None
        return x if isinstance(x, Tensor) and x.requires_grad and not x.is_leaf else None

    def backward(self, gradients: dict[int, Tensor]) -> bool:
        """One call's backward pass, as `backward` has it."""
        return backward([(self, place, gradient) for place, gradient in gradients.items()])


def make_again(model: nn.Module, calls: Sequence[Call]) -> bool:
    """Make a step's calls and backward passes again, on the model, as and in the order they were.

    Random generators and the modules' modes are those of the calls, and stay so.

    Returns:
        Whether that could be done: not if what a call was given has been changed since, or if
        something outside the model would be given its gradient a second time.
    """
    waiting = _passes(calls)
    made: dict[int, Made] = {}
    following = [*(call.number for call in calls[1:]), math.inf]
    for call, then in zip(calls, following, strict=True):
        if not call.is_as_given:
            return False
        with as_it_was(model, call):
            made[call.number] = forward(model, call.module, call)
        while waiting and waiting[0][0][1].made <= then:
            ended = waiting.pop(0)
            later = {number for of in waiting for number, _ in of}
            given = [(made[number], one.place, one.gradient) for number, one in ended]
            with _entered(model, ended[0][1].arithmetic):
                if not backward(given, keep_graph=any(number in later for number, _ in ended)):
                    return False
            made = {number: of for number, of in made.items() if number in later}
    return True


def forward(model: nn.Module, module: nn.Module, call: Call) -> Made:
    """The forward pass of a call.

    Args:
        model: The whole.
        module: Is called: the call's, or its copy.
        call: What it is given.
    """
    args, kwargs = tree_map(partial(_anew, {}), (call.args, call.kwargs))
    own = frozenset([*model.parameters(), *_tensors((args, kwargs))])
    return Made(module(*args, **kwargs), own)


def backward(given: Sequence[tuple[Made, int, Tensor]], *, keep_graph: bool = False) -> bool:
    """A backward pass from outputs of calls.

    Nothing is done, and False returned, if the outputs are not those that the gradients are of, or
    something else would get a gradient.

    Args:
        given: The calls, the output's place among the leaves of each, and the gradient there.
        keep_graph: For another pass to come.
    """
    found = [(made.leaf(place), gradient) for made, place, gradient in given]
    outputs = tuple(x for x, gradient in found if x is not None and x.shape == gradient.shape)
    if len(outputs) < len(given):
        return False
    own = frozenset[Any]().union(*(made.own for made, _, _ in given))
    if any(leaf not in own for leaf in _leaves(outputs)):
        return False  # it would be given its gradient a second time
    if outputs:
        gradients = tuple(_fresh(gradient) for _, _, gradient in given)
        # `torch.autograd.backward`, but with modes on: checkpointing computes there again.
        engine = torch.autograd.Variable._execution_engine
        with ExitStack() as stack:
            for x, gradient in zip(outputs, gradients, strict=True):
                stack.callback(_arrives(x, gradient).remove)
            engine.run_backward(
                outputs,
                gradients,
                keep_graph,
                False,
                (),
                allow_unreachable=True,
                accumulate_grad=True,
            )
    return True


@contextmanager
def as_it_was(model: nn.Module, call: Call) -> Iterator[None]:
    """The random generators, the modules' modes, and the arithmetic that a call was made in."""
    set_generators(call.random)
    for name, module in model.named_modules():
        mode = call.modes.get(clean_name(name), module.training)
        if module.training is not mode:
            module.training = mode
    with _entered(model, call.arithmetic):
        yield


@contextmanager
def _entered(model: nn.Module, arithmetic: Arithmetic) -> Iterator[None]:
    with torch.enable_grad(), arithmetic.entered():
        if any(map(is_compiled, model.modules())):  # a part of its own: a graph has no operations
            with torch.compiler.set_stance("force_eager"):
                yield
        else:
            yield


def _passes(calls: Sequence[Call]) -> list[list[tuple[int, Arrival]]]:
    """The backward passes in their order: of each what arrived, with the number of the call."""
    by_task: dict[int, list[tuple[int, Arrival]]] = {}
    for call in calls:
        for one in call.arrivals:
            by_task.setdefault(one.task, []).append((call.number, one))
    return [by_task[task] for task in sorted(by_task)]


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


def _arrives(x: Tensor, gradient: Tensor) -> RemovableHandle:
    """Have a gradient arrive at an output, as it did, in the place of what comes there.

    One that others were made of, as a loss is of the logits beside it, gets what comes from those
    as well: that is in what arrived already.
    """
    handle: RemovableHandle = x.register_hook(lambda _: _fresh(gradient))
    hooks: Any = x._backward_hooks
    hooks.move_to_end(handle.id, last=False)  # others are to see what arrives
    return handle


def _fresh(gradient: Tensor) -> Tensor:
    """A copy; of one number that stands for all, as a sum's gradient, itself: nothing writes it."""
    return gradient if 0 in gradient.stride() else gradient.clone()


def _tensors(values: Any) -> list[Tensor]:
    return [x for x in tree_leaves(values) if isinstance(x, Tensor)]


def _anew(copied: dict[int, Any], x: Any) -> Any:
    """An argument to be given again: a tensor without its history, or a copy of something else."""
    if isinstance(x, Tensor):
        return x.detach().requires_grad_(x.requires_grad)
    return copy.deepcopy(x, copied)
