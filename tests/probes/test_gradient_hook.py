"""`hook_gradient` is `Tensor.register_hook` without its handle."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gradlab.probes.sites import hook_gradient

Hooked = Callable[[Tensor, Callable[[Tensor], None]], object]


def gradients(hooked: Hooked, *, changed: bool, theirs: bool, twice: bool) -> list[Tensor]:
    """What hooks saw of a tensor that is used in two places, maybe changed in place after."""
    seen: list[Tensor] = []
    x = torch.arange(4.0, requires_grad=True)
    y = x * 2
    if theirs:
        y.register_hook(lambda gradient: gradient * 3)
    hooked(y, lambda gradient: seen.append(gradient.clone()))
    if changed:
        y.mul_(5)
    late = y.register_hook(lambda gradient: gradient * 7) if theirs else None
    loss = (y * y).sum() + y.sum()
    loss.backward(retain_graph=True)
    if late is not None:
        late.remove()
    if twice:
        loss.backward()
    assert x.grad is not None
    return [*seen, x.grad]


@pytest.mark.parametrize("changed", [False, True])
@pytest.mark.parametrize("theirs", [False, True])
@pytest.mark.parametrize("twice", [False, True])
def test_it_sees_what_a_registered_hook_does(changed: bool, theirs: bool, twice: bool) -> None:
    case = {"changed": changed, "theirs": theirs, "twice": twice}
    found, expected = (gradients(h, **case) for h in (hook_gradient, Tensor.register_hook))
    assert len(found) == len(expected) == 2 + twice
    assert all(map(torch.equal, found, expected))


def test_of_another_kind_of_tensor_it_leaves_that_to_torch() -> None:
    class Own(Tensor):
        pass

    seen: list[Tensor] = []
    x = torch.ones(3).as_subclass(Own).requires_grad_()
    hook_gradient(x * 2, seen.append)
    y = x * 2
    hook_gradient(y, seen.append)
    y.sum().backward()
    assert len(seen) == 1
