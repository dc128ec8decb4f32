"""A model from a config."""

import torch

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
    """Build a model with fairseq's initial values.

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
    model = model.to_empty(device=device)
    if seed is None:
        seed = int(torch.randint(2**62, (), device="cpu"))
    initialise(model, seed)
    return model
