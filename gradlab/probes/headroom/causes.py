"""Why a module's output is not finite, or all zero: looked at on a CPU, where nothing waits."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from gradlab.fp16 import FP16_OVERFLOW
from gradlab.parallel.spread import own_part
from gradlab.probes.selection import clean_name
from gradlab.probes.sites import HANDED, floats_of, has_extremes
from gradlab.probes.statistics import extremes


def cause_of(site: str, module: nn.Module, given: Any, dtype: torch.dtype) -> str | None:
    """What was not finite already when a module's first output that is not was made.

    Args:
        site: The module's name.
        module: That gave the output.
        given: Its arguments.
        dtype: Of the output. A parameter that does not fit it, as none of over 65519 fits FP16, is
            infinite once it is cast.

    Returns:
        `fc.weight (parameter)` or `bn.running_var (buffer)`; `HANDED` if an argument is not finite;
        None if all was, or the tensors are not on a CPU.
    """
    limit = FP16_OVERFLOW if dtype is torch.float16 else math.inf
    for name, parameter in module.named_parameters():
        low, high = _extremes(parameter)
        is_mask = not parameter.requires_grad and low == -math.inf and high <= 0
        if not (is_mask or max(-low, high) < limit):
            return f"{clean_name(f'{site}.{name}')} (parameter)"
    for name, buffer in module.named_buffers():
        if math.isnan(_largest(buffer)):  # inf may be a mask
            return f"{clean_name(f'{site}.{name}')} (buffer)"
    for place, x in floats_of(given):
        low, high = _extremes(x)
        # A mask has no gradient, and does not come first.
        if not high < math.inf or (low == -math.inf and (x.requires_grad or not place)):
            return HANDED
    return None


def makes_zeros(module: nn.Module, given: Any) -> bool:
    """Whether a module that gave nothing but zeros made them of something else.

    Not if its weights are all zero, as those of a layer are that starts so on purpose; if it has
    several, the largest.
    """
    weights = list(module.parameters())
    if weights and _largest(max(weights, key=Tensor.numel)) == 0:
        return False
    return any(_largest(x) > 0 for _, x in floats_of(given))


def _largest(x: Tensor) -> float:
    """Largest magnitude, NaN if there is one; 0 of what cannot be looked at here."""
    low, high = _extremes(x)
    return math.nan if math.isnan(high) else max(-low, high)


def _extremes(x: Tensor) -> tuple[float, float]:
    x = own_part(x)
    if not x.is_cpu or not x.numel() or not has_extremes(x):
        return 0.0, 0.0
    low, high = extremes(x.detach())
    return float(low.float().numpy()), float(high.float().numpy())
