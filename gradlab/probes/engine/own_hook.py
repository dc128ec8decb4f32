"""Hooks that act for the model on which they were put, and not for a copy of it."""

from collections.abc import Callable, Iterable
from typing import Any

from torch.utils.hooks import RemovableHandle


class OwnHook:
    """Calls a hook; a copy of it, as a copied or loaded model has, does nothing.

    `copy.deepcopy` and `torch.save` take a model's hooks along, and with them all that the hooks
    refer to: an average of the weights kept beside the model would be recorded as the model is.
    """

    def __init__(self, act: Callable[..., Any] | None) -> None:
        self._act = act

    def __call__(self, *args: Any) -> Any:
        """What the hook does, for whatever torch gives it."""
        return None if self._act is None else self._act(*args)

    def __reduce__(self) -> tuple[type["OwnHook"], tuple[None]]:
        return OwnHook, (None,)


def own(handles: Iterable[RemovableHandle]) -> None:
    """Have the hooks of these handles do nothing in a copy."""
    for handle in handles:
        hooks = handle.hooks_dict_ref()
        if hooks is not None and handle.id in hooks:
            hooks[handle.id] = OwnHook(hooks[handle.id])
