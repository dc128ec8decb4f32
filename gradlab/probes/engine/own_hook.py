"""Hooks that act for the model on which they were put, and of which a copy has none.

`copy.deepcopy`, `pickle` and `torch.save` take a model's hooks along, and with them all that the
hooks refer to: an average of the weights kept beside the model would be recorded as the model is,
and a file would load only where gradlab is installed.
"""

import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch._C._dynamo import eval_frame
from torch.utils.hooks import RemovableHandle

from gradlab.errors import GradlabError

State = dict[str, Any]

_GETSTATE = "__getstate__"
_HOOKS = ("_forward_pre_hooks", "_forward_hooks")


class NotScriptedError(GradlabError, AttributeError):
    """An attached model was given to torch.jit.script."""


class OwnHook:
    """Calls a hook; what a copy has of it, if anything, does nothing and is not gradlab's."""

    def __init__(self, act: Callable[..., Any]) -> None:
        self._act = act

    @property
    def __name__(self) -> str:
        """None, as of any object. torch.jit.script, which compiles hooks, asks for it first.

        Raises:
            NotScriptedError: Always.
        """
        raise NotScriptedError(
            "torch.jit.script compiles a module's hooks, and cannot those of probes: script the "
            "model before attach, or after close."
        )

    def __call__(self, *args: Any) -> Any:
        """What the hook does, for whatever torch gives it; nothing while torch.jit traces."""
        if not torch.compiler.is_compiling() and torch._C._is_tracing():
            return None
        return self._act(*args)

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (nullcontext(), "__exit__")  # takes anything, and does nothing


class OwnTensorHook(partial[Any]):
    """The same for a tensor's hook, which no tracing calls: without a call of its own in Python."""

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (nullcontext(), "__exit__")


# What torch.compile meets outside its graph, as the hooks of the outermost module, it would make
# graphs of their own, and make them anew until it gives up. What it meets inside, it still traces.
eval_frame.set_code_exec_strategy(
    OwnHook.__call__.__code__,
    eval_frame._FrameExecStrategy(eval_frame._FrameAction.SKIP, eval_frame._FrameAction.SKIP),
)


class LeftOut:
    """Leaves something out of an object's copies and pickles, until `remove`.

    Args:
        owner: A plain object: its class leaves copying to Python.
        without: From its state, as a dict of its own, takes what is to be left out.
    """

    def __init__(self, owner: object, without: Callable[[State], object]) -> None:
        self._owner = weakref.ref(owner)
        self._without = without
        owner.__dict__[_GETSTATE] = self

    def __call__(self) -> Any:
        """The owner's state, as copies and pickles take it."""
        owner = self._owner()
        kind: Any = type(owner)
        found = kind.__getstate__(owner)  # past what stands in its __dict__
        state, *slots = found if isinstance(found, tuple) else (found,)
        state = dict(state)
        state.pop(_GETSTATE, None)
        self._without(state)
        return (state, *slots) if slots else state

    def remove(self) -> None:
        """The object is copied as it is, again."""
        owner = self._owner()
        if owner is not None and owner.__dict__.get(_GETSTATE) is self:
            del owner.__dict__[_GETSTATE]


def own(handles: Iterable[RemovableHandle], model: nn.Module) -> Sequence[LeftOut]:
    """Have these handles' hooks act for the model alone, and leave them out of its copies.

    Returns:
        To be removed with the handles.
    """
    of_modules = {id(getattr(module, n)) for module in model.modules() for n in _HOOKS}
    for handle in handles:
        hooks = handle.hooks_dict_ref()
        if hooks is not None and handle.id in hooks:
            kind = OwnHook if id(hooks) in of_modules else OwnTensorHook
            hooks[handle.id] = kind(hooks[handle.id])
    return [
        LeftOut(module, _without_hooks)
        for module in model.modules()
        if _is_copied_plainly(module) and any(map(_ours, (getattr(module, n) for n in _HOOKS)))
    ]


def _ours(hooks: Any) -> set[int]:
    return {number for number, hook in hooks.items() if isinstance(hook, OwnHook)}


def _without_hooks(state: State) -> None:
    for name in _HOOKS:
        ours = _ours(state[name])
        for of in (name, f"{name}_with_kwargs", "_forward_hooks_always_called"):
            if of in state:
                kept = [(number, x) for number, x in state[of].items() if number not in ours]
                state[of] = OrderedDict(kept)


def _is_copied_plainly(module: nn.Module) -> bool:
    """Whether nothing but Python's own copying makes the copies of a module."""
    kind = type(module)
    return (
        not isinstance(module, torch.jit.ScriptModule)
        and kind.__reduce_ex__ is object.__reduce_ex__
        and kind.__reduce__ is object.__reduce__
        and not hasattr(kind, "__deepcopy__")
        and _GETSTATE not in vars(module)
    )
