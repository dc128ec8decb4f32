"""Where −inf is taken for a mask."""

from typing import Literal, TypeAlias

from torch import Tensor, nn

Masking: TypeAlias = Literal["never", "square", "always"]


def masking_of(module: nn.Module) -> Masking:
    """When −inf in a module's output is taken for a mask.

    Always, of a module without parameters; of one with parts that have some, where the output has
    as many rows as columns, which scores have and a stream of activations hardly ever, and all
    before it was finite. Our own
    models' give masked values to nobody: their sums and products can be −inf by overflow only.
    """
    if type(module).__module__.startswith("gradlab.models."):
        return "never"
    if next(module.parameters(recurse=False), None) is not None:
        return "never"
    return "always" if next(module.parameters(), None) is None else "square"


def is_square(x: Tensor) -> bool:
    """Whether a tensor has as many rows as columns."""
    return x.dim() > 2 and x.shape[-1] == x.shape[-2]
