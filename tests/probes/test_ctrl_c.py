"""Ctrl-C in a forward pass, for which torch calls no hook: nothing of it stays in the session."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import gradlab
from gradlab.probes import AttentionEntropy, AttentionScores, Headroom, HiddenStates, Probe


class _Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.is_stopped = False

    def forward(self, x: Tensor) -> Tensor:
        if self.is_stopped:
            raise KeyboardInterrupt
        return x + self.inner(x)


def _steps(probe: Probe, stopped: int, model: nn.Sequential, *, goes_on: bool) -> None:
    """Four steps, of which the third is broken off in a layer; then the loop ends or goes on."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with gradlab.attach(model, optimizer, probes=[probe]):
        for step in range(4):
            layer = model[stopped]
            assert isinstance(layer, _Layer)
            layer.is_stopped = step == 2
            try:
                optimizer.zero_grad()
                model(torch.randn(2, 3, 4)).mean().backward()
                optimizer.step()
            except KeyboardInterrupt:
                if not goes_on:
                    raise
            else:
                assert not torch._C._len_torch_function_stack()


@pytest.mark.parametrize("goes_on", [False, True])
@pytest.mark.parametrize("stopped", [0, 1])
@pytest.mark.parametrize(
    "make",
    [
        HiddenStates,
        lambda: HiddenStates(every=2),
        lambda: Headroom(operations=1),
        lambda: Headroom(operations=2),
        AttentionScores,
        AttentionEntropy,
    ],
)
@pytest.mark.filterwarnings("ignore:Attention:gradlab.errors.GradlabWarning")
def test_no_mode_and_no_hook_is_left(
    make: Callable[[], Probe], stopped: int, goes_on: bool
) -> None:
    model = nn.Sequential(_Layer(), _Layer())
    try:
        _steps(make(), stopped, model, goes_on=goes_on)
    except KeyboardInterrupt:
        assert not goes_on
    left = torch._C._len_torch_function_stack()
    for _ in range(left):  # not to be in the way of other tests
        torch._C._pop_torch_function_stack()
    assert not left
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
