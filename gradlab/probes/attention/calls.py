"""Where a model computes attention: softmax over scores, and fused attention, as they are called.

A `TorchFunctionMode` sees the calls. It is entered as a module's forward pass begins and left as
it ends, so that it is there in no other code; every call goes on as it would have gone.
"""

import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from gradlab.parallel.spread import is_spread
from gradlab.probes.attention.bounds import MASKING, FusedCall, aside, fused_call
from gradlab.probes.engine.compiled import in_compiled_call
from gradlab.probes.modes import PassMode, Reset
from gradlab.probes.sites import in_backward

_SOFTMAX = frozenset({F.softmax, torch.softmax, Tensor.softmax, torch.special.softmax})
_FILL = frozenset({torch.masked_fill, Tensor.masked_fill, Tensor.masked_fill_, torch.where})
_FILL |= {Tensor.where}
_ATTENTION = _SOFTMAX | {F.scaled_dot_product_attention}
_FUSED = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
_FUSED_READ = ("query", "key", "attn_mask", "is_causal", "scale", "enable_gqa")
_HEADS = ("num_heads", "n_heads", "num_attention_heads", "n_head", "nhead", "heads")
_CHECK = "has_torch_function"
_WALK = 64
"""Nodes of the graph that are looked at to tell where scores come from."""


@dataclass(frozen=True)
class Caller:
    """The innermost of a model's modules being executed, and how many heads it says it has."""

    module: nn.Module
    heads: int | None

    def by_head(self, x: Tensor) -> tuple[Tensor, bool]:
        """(..., heads, n) → (parts, heads, n), and whether the heads could be told apart.

        Two dimensions before the last are (batch, heads). One is batch · heads, of which the
        module must say how many heads; so it must of more, which are windows or groups of heads.
        """
        lead, heads = x.shape[:-1], self.heads
        if len(lead) == 2:
            return x, True
        last = {lead[-1:].numel(), lead[-2:].numel()} if len(lead) > 2 else {heads}
        if heads is not None and heads in last and lead.numel() % heads == 0:
            return x.reshape(-1, heads, x.shape[-1]), True
        return x.reshape(-1, 1, x.shape[-1]), False


class _Local(threading.local):
    """What a thread executes: with several devices, backward passes run in threads of their own."""

    def __init__(self) -> None:
        self.entered_modules: list[tuple[nn.Module, bool]] = []
        self.filled: tuple[weakref.ref[Tensor], float] | None = None


class AttentionCalls(PassMode):
    """Calls back for attention in the forward passes of a model.

    torch's own encoder layers and attention take a path without autograd where nothing is trained,
    unless there is a hook or a mode: none is put on where they might.

    Args:
        model: The model.
        looking: Whether a forward pass that begins now is to be looked into.
        wanted: Whether what this module computes now is.
        on_scores: Called with scores (..., T, S) on their way into a softmax, and the number at
            or below which an entry is masked.
        on_fused: Called with a fused attention's arguments.
    """

    def __init__(
        self,
        model: nn.Module,
        looking: Callable[[], bool],
        wanted: Callable[[nn.Module], bool],
        on_scores: Callable[[Caller, Tensor, float], None],
        on_fused: Callable[[Caller, FusedCall], None],
    ) -> None:
        super().__init__()
        self._model = model
        self._looking = looking
        self._wanted = wanted
        self._on_scores = on_scores
        self._on_fused = on_fused
        self._local = _Local()
        self._modules = frozenset(model.modules())
        layers = [m for m in self._modules if isinstance(m, nn.TransformerEncoderLayer)]
        inside = {part for layer in layers for part in layer.modules()} - {model}
        self._may_be_fast = {
            module: [
                m for m in module.modules() if m in layers or (m is module and _has_fast_path(m))
            ]
            for module in model.modules()
            if module not in inside
        }

    def install(self) -> Iterator[RemovableHandle]:
        """Put hooks on the model and its modules."""
        yield Reset(self.reset)
        for module in self._may_be_fast:
            yield module.register_forward_pre_hook(self._enter)
            yield module.register_forward_hook(self._leave, prepend=True, always_call=True)

    def reset(self) -> None:
        """Forget the passes that Ctrl-C broke off: no hook is called for those."""
        self._local.entered_modules.clear()
        self._follow()

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Make the call, then look at what it was given."""
        kwargs = kwargs or {}
        if torch.compiler.is_compiling():
            return func(*args, **kwargs)
        if func is F.multi_head_attention_forward and _CHECK in func.__code__.co_names:
            with self:
                return _looked_into(func)(*args, **kwargs)
        result = func(*args, **kwargs)
        if func in _FILL:
            for given in (*args, *kwargs.values()):
                if isinstance(given, float | int) and given <= MASKING:
                    self._local.filled = (weakref.ref(result), given / 2)
        elif func in _ATTENTION and torch.is_grad_enabled():
            caller = self._caller()
            if caller is not None and self._wanted(caller.module):
                look = self._look_at_softmax if func in _SOFTMAX else self._look_at_fused
                look(caller, *args, **kwargs)
        return result

    def _caller(self) -> Caller | None:
        """Read off Python's stack, for which torch's modules need no hooks."""
        executed = [module for module in _executed() if module in self._modules]
        if not executed:
            return None
        heads = _heads(executed[0])
        if heads is None and isinstance(executed[0], nn.Softmax):
            heads = next((_heads(module) for module in executed[1:]), None)
        return Caller(executed[0], heads)

    def _look_at_fused(self, caller: Caller, *args: Any, **kwargs: Any) -> None:
        given = {**dict(zip(_FUSED, args, strict=False)), **kwargs}
        with aside(given["query"].device) as autocast:
            named = {name: given[name] for name in _FUSED_READ if name in given}
            call = fused_call(**named, autocast=autocast)
            if call is not None:
                self._on_fused(caller, call)

    def _look_at_softmax(
        self, caller: Caller, input: Tensor, dim: int | None = None, *_: Any, **__: Any
    ) -> None:
        if not _are_scores(input, dim, caller.heads):
            return
        masked = torch.finfo(input.dtype).min / 2
        if (filled := self._local.filled) is not None and filled[0]() is input:
            masked = max(masked, filled[1])
        with aside(input.device):
            self._on_scores(caller, input.detach(), masked)

    def _enter(self, module: nn.Module, args: Any) -> None:
        entered = self._local.entered_modules
        if torch.compiler.is_compiling() or (not entered and in_compiled_call()):
            return
        if entered and module is self._model and not in_backward():
            self.reset()
        if entered or (self._looking() and torch.is_grad_enabled()):
            careful = any(_takes_fast_path(part) for part in self._may_be_fast.get(module, ()))
            entered.append((module, careful))
            self._follow()

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        entered = self._local.entered_modules
        at = len(entered) - 1
        while at >= 0 and entered[at][0] is not module:
            at -= 1
        if at >= 0:
            del entered[at:]
            self._follow()

    def _follow(self) -> None:
        """Enter or leave the mode, as the innermost module entered allows it."""
        local = self._local
        wanted = bool(local.entered_modules) and not local.entered_modules[-1][1]
        self.turn(on=wanted)
        if not wanted:
            local.filled = None


def _looked_into(func: Any) -> types.FunctionType:
    """The same function, which does not hand itself to the mode before it has begun."""
    names = {**func.__globals__, _CHECK: lambda _: False}
    same = types.FunctionType(func.__code__, names, func.__name__, func.__defaults__)
    same.__kwdefaults__ = func.__kwdefaults__
    return same


def _heads(module: nn.Module) -> int | None:
    found = (getattr(module, name, None) for name in _HEADS)
    return next((n for n in found if isinstance(n, int) and n > 0), None)


def _executed() -> Iterator[nn.Module]:
    """The modules whose forward pass this is in, the innermost first."""
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code is nn.Module._call_impl.__code__:
            yield frame.f_locals["self"]
        frame = frame.f_back


def _has_fast_path(module: nn.Module) -> bool:
    return isinstance(
        module, nn.MultiheadAttention | nn.TransformerEncoderLayer | nn.TransformerEncoder
    )


def _takes_fast_path(module: nn.Module) -> bool:
    """Whether a module that has one might take its fast path now, were nobody looking."""
    return not all(part.training for part in module.modules()) and not all(
        parameter.requires_grad for parameter in module.parameters()
    )


def _are_scores(x: Tensor, dim: int | None, heads: int | None) -> bool:
    """Whether a softmax's input is attention scores: a product of two activations.

    A router's or a classifier's is a product with a parameter, or has no pairs at all. Without a
    graph to ask, four dimensions or a module with heads must do.
    """
    usable = isinstance(x, Tensor) and not x.is_nested and not is_spread(x)
    if not usable or x.dim() < 3 or not x.numel() or dim not in (-1, x.dim() - 1):
        return False
    if x.grad_fn is None:
        return x.dim() > 3 or heads is not None
    nodes = [x.grad_fn]
    for at in range(_WALK):
        if at >= len(nodes):
            break
        node = nodes[at]
        name = node.name()
        if "Bmm" in name or "Baddbmm" in name:
            # einsum multiplies by parameters so, too
            if x.dim() > 3 or not any(_is_parameter(given) for given, _ in node.next_functions):
                return True
        elif not any(product in name for product in ("Mm", "mm", "Linear", "Convolution")):
            nodes += [given for given, _ in node.next_functions if given is not None]
    return False


def _is_parameter(node: Any) -> bool:
    while node is not None and len(node.next_functions) == 1:
        node = node.next_functions[0][0]
    return node is not None and node.name().endswith("AccumulateGrad")
