"""A precision mode, resolved for a device: its number formats and the contexts that apply them."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from gradlab.config import PrecisionConfig
from gradlab.precision.device_facts import CUDA_FLAGS
from gradlab.precision.emulation import emulated_fp16

_PRODUCT_DTYPES = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp16-pure": torch.float16,
}


@dataclass(frozen=True)
class Precision:
    """What `PrecisionConfig` means on one device.

    | name        | products | softmax, activation, norm statistics | residual stream | weights |
    |-------------|----------|--------------------------------------|-----------------|---------|
    | `fp32`      | fp32     | fp32                                 | fp32            | fp32    |
    | `bf16`      | bf16     | fp32                                 | fp32            | fp32    |
    | `fp16`      | fp16     | fp32                                 | fp32            | fp32    |
    | `fp16-pure` | fp16     | fp32 inside, fp16 out                | fp16            | fp16    |

    The products' sums are fp32 throughout. A training step is::

        with precision.arithmetic():
            with precision.autocast():
                loss = token_loss(model(tokens), targets)
            scaler.scale(loss).backward()

    Attributes:
        config: What was asked for.
        device: Where the model is.
        weight_dtype: The dtype of the model's parameters.
        product_dtype: The dtype of a matrix product's operands and result.
    """

    config: PrecisionConfig
    device: torch.device
    weight_dtype: torch.dtype
    product_dtype: torch.dtype

    @property
    def loss_scaling(self) -> bool:
        """Whether the loss is scaled: where products are fp16, whose range gradients leave."""
        return self.product_dtype is torch.float16

    def autocast(self) -> AbstractContextManager[object]:
        """The context for the forward pass: casts operands where weights are wider."""
        if self.product_dtype is self.weight_dtype:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.product_dtype)

    def arithmetic(self) -> AbstractContextManager[object]:
        """The context for a whole step, forward and backward: how products are made.

        On a CPU, fp16 products are emulated (`gradlab.emulated_fp16`). On CUDA they are the
        hardware's, with accumulation in less than fp32 switched off, and those of fp32 keep all
        their bits (no TF32); the settings found are put back on leaving.
        """
        if self.device.type == "cuda":
            return _cuda_products_as_named()
        if self.device.type == "cpu" and self.product_dtype is torch.float16:
            return emulated_fp16()
        return nullcontext()

    def grad_scaler(self) -> torch.amp.GradScaler:
        """A new dynamic loss scaler as configured; one that does nothing without loss scaling."""
        return torch.amp.GradScaler(
            self.device.type,
            init_scale=self.config.initial_loss_scale,
            growth_factor=self.config.growth_factor,
            backoff_factor=self.config.backoff_factor,
            growth_interval=self.config.growth_interval,
            enabled=self.loss_scaling,
        )


def resolve(config: PrecisionConfig, device: torch.device) -> Precision:
    """The precision that a configuration means on a device."""
    return Precision(
        config=config,
        device=device,
        weight_dtype=torch.float16 if config.name == "fp16-pure" else torch.float32,
        product_dtype=_PRODUCT_DTYPES[config.name],
    )


@contextmanager
def _cuda_products_as_named() -> Iterator[None]:
    """Accumulators and split-K reductions of half products in fp32, fp32 operands not rounded."""
    matmul = torch.backends.cuda.matmul

    def setting(name: str, allowed: bool) -> bool | tuple[bool, bool]:
        # A reduction's second flag, whether K may be split at all, is reset if it is left out.
        return allowed if getattr(matmul, f"{name}_split_k", True) else (allowed, False)

    found: dict[str, Any] = {name: setting(name, getattr(matmul, name)) for name in CUDA_FLAGS}
    wanted: dict[str, Any] = {name: setting(name, False) for name in CUDA_FLAGS}
    found["fp32_precision"], wanted["fp32_precision"] = matmul.fp32_precision, "ieee"
    try:
        for name, value in wanted.items():
            setattr(matmul, name, value)
        yield
    finally:
        for name, value in found.items():
            setattr(matmul, name, value)
