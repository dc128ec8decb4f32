"""A model from a config."""

import torch

from gradlab.models.admin import profile
from gradlab.models.config import ModelConfig
from gradlab.models.init import initialise
from gradlab.models.transformer import Transformer


def build_model(
    config: ModelConfig,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    seed: int | None = None,
) -> Transformer:
    """Build a model with the initial values that its config names, fairseq's by default.

    Args:
        config: Shape and switches.
        device: Where the parameters live, torch's default device if None. On `meta` they have
            shapes and no values.
        dtype: Of the parameters, torch's default dtype if None. Values are drawn in fp32 and
            rounded, so models that differ in dtype alone start at the same point.
        seed: Decides the initial values; from torch's global generator if None.
    """
    # Built without memory: torch's own initial values would be drawn only to be replaced.
    with torch.device("meta"):
        model = Transformer(config)
    if dtype is not None:
        model = model.to(dtype)
    device = torch.get_default_device() if device is None else torch.device(device)
    if device.type == "meta":
        return model
    if seed is None:
        seed = int(torch.randint(2**62, (), device="cpu"))
    if config.init == "admin":
        return _profiled(model, device, seed)
    model = _with_memory(model, device)
    initialise(model, config, seed)
    return model


def _with_memory(model: Transformer, device: torch.device) -> Transformer:
    """What `to_empty` does, which asks of each tensor in Python what is like it."""
    model._apply(  # type: ignore[no-untyped-call]
        lambda x: torch.empty(x.shape, dtype=x.dtype, device=device)
    )
    return model


def _profiled(model: Transformer, device: torch.device, seed: int) -> Transformer:
    """Values from a pass in fp32 on the CPU, which are the same whatever the dtype and device."""
    dtype = model.embed.weight.dtype
    model = _with_memory(model.to(torch.float32), torch.device("cpu"))
    initialise(model, model.config, seed)
    profile(model, seed)
    return model.to(device, dtype)
