"""Initial values: fairseq's, and others by name."""

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from gradlab.errors import one_of
from gradlab.models.config import ModelConfig
from gradlab.models.linear import Linear
from gradlab.models.positions import LearnedPositions
from gradlab.parallel.spread import fill


@runtime_checkable
class StartsElsewhere(Protocol):
    """A module some of whose parameters start neither at 1 nor, a bias, at 0.

    Attributes:
        initial: Parameter → what all its entries are at first.
    """

    initial: Mapping[str, float]


@dataclass(frozen=True)
class Matrix:
    """What a rule may go by: the op of a linear map, its inputs and outputs, the model's layers."""

    op: str
    fan_in: int
    fan_out: int
    n_layers: int

    @property
    def into_residual(self) -> bool:
        """Whether what it gives is added to the stream."""
        return self.op in ("out", "fc2")


@dataclass(frozen=True)
class Uniform:
    """Uniform between −bound and bound."""

    bound: float

    def draw(self, value: Tensor, generator: torch.Generator) -> Tensor:
        """Fill `value`."""
        return value.uniform_(-self.bound, self.bound, generator=generator)


@dataclass(frozen=True)
class Normal:
    """Normal around 0."""

    std: float

    def draw(self, value: Tensor, generator: torch.Generator) -> Tensor:
        """Fill `value`."""
        return value.normal_(std=self.std, generator=generator)


def _fairseq(m: Matrix) -> Uniform:
    if m.op == "out":
        return _xavier(m)
    if m.op in ("q", "k", "v"):
        return Uniform(math.sqrt(0.5 * 6 / (m.fan_in + m.fan_out)))
    return Uniform(1 / math.sqrt(m.fan_in))


def _xavier(m: Matrix) -> Uniform:
    return Uniform(math.sqrt(6 / (m.fan_in + m.fan_out)))


def _kaiming(m: Matrix) -> Normal:
    # The gain makes up for the half that an activation before it takes away.
    gain = math.sqrt(2) if m.op == "fc2" else 1.0
    return Normal(gain / math.sqrt(m.fan_in))


def _gpt2(m: Matrix) -> Normal:
    return Normal(_GPT2_STD / math.sqrt(2 * m.n_layers) if m.into_residual else _GPT2_STD)


def _deepnorm(m: Matrix) -> Normal:
    gain = 1.0 if m.op in ("q", "k") else float((8 * m.n_layers) ** -0.25)
    return Normal(gain * math.sqrt(2 / (m.fan_in + m.fan_out)))


_GPT2_STD = 0.02

_RULES: Mapping[str, Callable[[Matrix], Uniform | Normal]] = {
    "fairseq": _fairseq,
    "xavier": _xavier,
    "kaiming": _kaiming,
    "gpt2": _gpt2,
    "deepnorm": _deepnorm,
    "admin": _fairseq,
}


def initialise(model: nn.Module, config: ModelConfig, seed: int) -> None:
    """Draw every parameter of a model anew.

    ========  ==========================================================================
    init      weights of a layer's linear maps
    ========  ==========================================================================
    fairseq   q, k, v: Xavier uniform, gain 1/√2 (std √(0.5/d_model)); out: Xavier
              uniform, gain 1; fc1, fc2: U(±1/√fan_in)
    xavier    uniform, std √(2/(fan_in + fan_out)) (Glorot & Bengio, 2010, eq. 16)
    kaiming   normal, std √2/√fan_in behind the activation (fc2), 1/√fan_in elsewhere (He
              et al., 2015)
    gpt2      normal, std 0.02; out, fc2: 0.02/√(2 · layers) (Radford et al., 2019)
    deepnorm  Xavier normal, gain (8 · layers)^-¼, q and k 1 (Wang et al., 2022, figure 2)
    admin     fairseq's
    ========  ==========================================================================

    =======================  ===================================================================
    parameter                value
    =======================  ===================================================================
    biases                   fairseq, admin: U(±1/√fan_in) but for out's; all others 0
    embed, positions         normal, std 1/√d_model; gpt2: 0.02
    norms                    weight 1, bias 0; ScaleNorm's g √d, DyT's α 0.5
    gamma of the heads       1
    lambda_resid             1; admin: as `gradlab.models.admin` finds it
    gamma of the branches    ReZero 0; LayerScale 0.1 to 18 layers, 1e-5 to 24, 1e-6 beyond
    =======================  ===================================================================

    Each parameter has a generator of its own, seeded from the seed and the parameter's name, and
    is drawn in fp32 on the CPU: parameters of one name and shape start equal in every
    architecture of one `init`, whatever else the model holds, on every device.

    Args:
        model: A model of gradlab, or a part of one; changed in place. Of parameters that are spread
            over processes each fills its part.
        config: The model's.
        seed: Any integer.

    Raises:
        ConfigError: The kind of initial values is unknown.
    """
    with torch.no_grad():
        for prefix, module in model.named_modules():
            for name, parameter in module.named_parameters(prefix, recurse=False):
                generator = generator_of(seed, name)
                fill(parameter, _initial(module, name, parameter.shape, config, generator))


def generator_of(seed: int, name: str) -> torch.Generator:
    """A generator for one purpose, on the CPU."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def _initial(
    module: nn.Module,
    name: str,
    shape: torch.Size,
    config: ModelConfig,
    generator: torch.Generator,
) -> Tensor:
    value = torch.empty(shape, dtype=torch.float32, device="cpu")
    kind = name.rsplit(".", 1)[-1]
    if isinstance(module, Linear):
        op = name.rsplit(".", 2)[-2]
        matrix = Matrix(op, module.in_features, module.out_features, config.n_layers)
        return _linear(matrix, kind, config).draw(value, generator)
    if isinstance(module, nn.Embedding | LearnedPositions):
        std = _GPT2_STD if config.init == "gpt2" else shape[-1] ** -0.5
        return Normal(std).draw(value, generator)
    initial = module.initial if isinstance(module, StartsElsewhere) else {}
    return value.fill_(initial.get(kind, 0.0 if kind == "bias" else 1.0))


def _linear(matrix: Matrix, kind: str, config: ModelConfig) -> Uniform | Normal:
    """The distribution of a linear map's weight or bias."""
    rule = one_of("init", config.init, _RULES)
    if kind == "weight":
        return rule(matrix)
    drawn = rule is _fairseq and matrix.op != "out"
    return Uniform(1 / math.sqrt(matrix.fan_in) if drawn else 0.0)
