"""A model put back as it was before passes that are not the loop's."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gradlab.probes.operations.generators import generators, set_generators
from gradlab.probes.sites import version_of


@contextmanager
def put_back(model: nn.Module) -> Iterator[None]:
    """Put back on leaving what a model's passes change; gradients go into tensors of their own.

    That is gradients, random generators, and the modules' buffers and other attributes, with the
    values of tensors among them that have no history. What is inside any other attribute stays as
    it is: an entry added to a list.
    """
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    held = [(holder, dict(holder)) for module in model.modules() for holder in _holders(module)]
    tensors = {x for _, of in held for x in of.values() if isinstance(x, Tensor)}
    fixed = {x for x in tensors if x.is_inference() or x.requires_grad}
    values = [(x, version_of(x), x.clone()) for x in tensors - fixed]
    buffers = set(model.buffers())
    before = generators()
    for parameter, _ in gradients:
        parameter.grad = None
    try:
        yield
    finally:
        set_generators(before)
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for holder, of in held:
            for added in holder.keys() - of.keys():
                del holder[added]
            holder.update(of)
        with torch.no_grad():
            for x, version, value in values:
                # BatchNorm changes its own without torch counting it.
                if x in buffers or version_of(x) != version:
                    x.copy_(value)


def _holders(module: nn.Module) -> Iterator[dict[str, Any]]:
    """Where a module keeps its buffers, and its other attributes."""
    attributes = vars(module)
    yield attributes
    if isinstance(buffers := attributes.get("_buffers"), dict):  # a scripted one has them in C++
        yield buffers
