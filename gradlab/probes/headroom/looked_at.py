"""What of a model and its tensors is looked at."""

import inspect

from torch import Tensor, nn

from gradlab.models.attention import Scores
from gradlab.probes.distributed.shards import is_spread


def plain(x: Tensor) -> Tensor:
    """What this process holds of a tensor, without its history."""
    x = x.to_local() if is_spread(x) else x
    return x.detach() if x.requires_grad else x


def entries(module: nn.Module, output: Tensor) -> int:
    """How many entries of a module's output its model uses."""
    if not isinstance(module, Scores):
        return output.numel()
    # A causal model never uses a score above the diagonal, nor its gradient (zero).
    length = output.shape[-1]
    return output.numel() * (length + 1) // (2 * length)


def arguments(model: nn.Module) -> tuple[str, ...]:
    """The names of a model's arguments, in their order."""
    try:
        return tuple(inspect.signature(model.forward).parameters)
    except (TypeError, ValueError):  # of a scripted one they are not known
        return ()
