"""What a training step keeps in memory, counted before anything is trained."""

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from gradlab.config import RunConfig
from gradlab.models.build import build_model
from gradlab.models.cost import parameter_count
from gradlab.models.loss import token_loss

_PER_PARAMETER = 16
"""Bytes in fp32: the weight, its gradient and Adam's two moments."""


def step_bytes(config: RunConfig) -> int:
    """Bytes of a training step in fp32: parameters, gradients, moments, and what backward needs.

    The last is counted where autograd saves it, on shapes without numbers, in a model of one layer
    and in one of two; each further layer saves as much as the second.
    """
    one, two = (_saved(config, layers) for layers in (1, 2))
    layers = one + (config.model.n_layers - 1) * (two - one)
    return _PER_PARAMETER * parameter_count(config.model) + layers


def _saved(config: RunConfig, layers: int) -> int:
    """Bytes of the tensors that a forward pass saves, each memory once, without the parameters."""
    model = build_model(config.model.replace(n_layers=layers), device="meta")
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    found = {}

    def keep(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage._cdata not in own:
            found[storage._cdata] = storage  # held, as the next would have its address
        return x

    shape = (config.batch_size, config.model.max_seq_len)
    tokens = torch.zeros(shape, dtype=torch.int64, device="meta")
    with saved_tensors_hooks(keep, lambda x: x):
        loss = token_loss(model(tokens), tokens)
    size = sum(storage.nbytes() for storage in found.values())
    del loss
    return size
