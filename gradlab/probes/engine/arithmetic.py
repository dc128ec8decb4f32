"""How probes compute at the moments of a step."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def own_arithmetic() -> Iterator[None]:
    """Without gradients, and without the autocast of a loop that steps inside its region.

    Autocast changes types, and refuses to join tensors of a type that is not its own.
    """
    with torch.no_grad(), torch._C._DisableAutocast():
        yield
