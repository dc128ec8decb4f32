"""Initial values, as fairseq draws them."""

import hashlib
import math

import torch
from torch import Tensor, nn

from gradlab.models.linear import Linear
from gradlab.models.positions import LearnedPositions


def initialise(model: nn.Module, seed: int) -> None:
    """Draw every parameter of a model anew.

    =======================  ===================================================================
    parameter                distribution
    =======================  ===================================================================
    q, k, v weight           Xavier uniform, gain 1/√2 (std √(0.5/d_model)); bias U(±1/√d_model)
    out weight               Xavier uniform, gain 1; bias 0
    fc1, fc2                 U(±1/√fan_in), weight and bias
    embed, positions         normal, std 1/√d_model
    norms                    weight 1, bias 0
    gamma, lambda_resid      1
    =======================  ===================================================================

    Each parameter has a generator of its own, seeded from the seed and the parameter's name, and
    is drawn in fp32 on the CPU: parameters of one name and shape start equal in every
    architecture, whatever else the model holds, on every device.

    Args:
        model: A model of gradlab, or a part of one; changed in place.
        seed: Any integer.
    """
    with torch.no_grad():
        for prefix, module in model.named_modules():
            for name, parameter in module.named_parameters(prefix, recurse=False):
                parameter.copy_(_initial(module, name, parameter.shape, _generator(seed, name)))


def _generator(seed: int, name: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def _initial(module: nn.Module, name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    value = torch.empty(shape, dtype=torch.float32, device="cpu")
    kind = name.rsplit(".", 1)[-1]
    if isinstance(module, Linear):
        bound = _linear_bound(name.rsplit(".", 2)[-2], kind, module)
        return value.uniform_(-bound, bound, generator=generator)
    if isinstance(module, nn.Embedding | LearnedPositions):
        return value.normal_(std=shape[-1] ** -0.5, generator=generator)
    return value.fill_(0.0 if kind == "bias" else 1.0)


def _linear_bound(role: str, kind: str, module: Linear) -> float:
    """Half the width of the uniform distribution of a linear map's weight or bias."""
    fans = module.in_features + module.out_features
    if role == "out":
        return math.sqrt(6 / fans) if kind == "weight" else 0.0
    if role in ("q", "k", "v") and kind == "weight":
        return math.sqrt(0.5 * 6 / fans)
    return 1 / math.sqrt(module.in_features)
