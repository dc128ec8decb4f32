"""Which parameters and modules a probe looks at: patterns over their dotted names."""

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TypeAlias, TypeVar

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from gradlab.errors import GradlabError

Patterns: TypeAlias = str | Sequence[str]
"""Shell patterns over dotted names (`blocks.*.fc2.weight`): one, or several of which any fits."""

Named = TypeVar("Named")

_SHOWN = 6

# Names that wrappers put between a module and its parts: no part of a model's own names.
_WRAPPERS = re.compile(r"(^|\.)(_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module)(?=\.|$)")


def unwrapped(model: nn.Module) -> nn.Module:
    """The user's own module inside DistributedDataParallel and torch.compile."""
    while True:
        if isinstance(model, DistributedDataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


def is_compiled(module: nn.Module) -> bool:
    """Whether calls of this very module, not of its parts, go to compiled code."""
    return hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None


def clean_name(name: str) -> str:
    """A dotted name without the components that wrappers put in.

    >>> clean_name("layers.0._checkpoint_wrapped_module.fc1.weight")
    'layers.0.fc1.weight'
    """
    return _WRAPPERS.sub("", name).lstrip(".")


def select(named: Mapping[str, Named], patterns: Patterns, what: str) -> dict[str, Named]:
    """Those whose names fit any of the patterns, in their order.

    Args:
        named: All there are.
        patterns: One pattern or several.
        what: What they are, for the error: `parameters`.

    Raises:
        GradlabError: A pattern fits nothing; the sentence says what there is.
    """
    wanted = [patterns] if isinstance(patterns, str) else list(patterns)
    for pattern in wanted:
        if not any(fnmatchcase(name, pattern) for name in named):
            raise GradlabError(f"no {what} fit {pattern!r}: there {_there_are(named)}.")
    return {
        name: item
        for name, item in named.items()
        if any(fnmatchcase(name, pattern) for pattern in wanted)
    }


def _there_are(names: Iterable[str]) -> str:
    known = list(names)
    if not known:
        return "are none"
    shown = ", ".join(known[:_SHOWN])
    more = len(known) - _SHOWN
    return f"are {shown} and {more} more" if more > 0 else f"are {shown}"
