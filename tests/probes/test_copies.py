"""A model copied or saved while probes are attached takes none of them along."""

import copy
import io
import pickle
from collections.abc import Callable

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import gradlab
from gradlab.errors import GradlabWarning
from gradlab.probes import GradientNorms, Headroom, OptimizerHealth
from gradlab.probes.engine.own_hook import OwnHook


def deep_copied(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model)


def saved_and_loaded(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded: nn.Module = torch.load(file, weights_only=False)
    return loaded


def trained(copied: Callable[[nn.Module], nn.Module] | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    pair = [torch.optim.SGD(part.parameters(), lr=0.1) for part in (model[0], model[2])]
    probes = [GradientNorms(), Headroom(), OptimizerHealth()]
    with gradlab.attach(model, pair, probes=probes) as attached:
        for _ in range(3):
            model(torch.ones(2, 3)).square().sum().backward()
            if copied is not None:
                other = copied(model)
                other(torch.full((2, 3), 100.0)).sum().backward()
                assert_equal_weights(model, other)
                assert not any(hook._act for hook in hooks_of(other))
            for optimizer in pair:
                optimizer.step()
                optimizer.zero_grad()
    return attached.table("headroom"), attached.table("grad_norms")


def hooks_of(model: nn.Module) -> list[OwnHook]:
    kinds = ("_forward_hooks", "_forward_pre_hooks")
    return [h for m in model.modules() for kind in kinds for h in getattr(m, kind).values()]


def assert_equal_weights(model: nn.Module, other: nn.Module) -> None:
    theirs: list[Tensor] = list(other.parameters())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), theirs, strict=True))


@pytest.mark.parametrize("copied", [deep_copied, saved_and_loaded])
def test_a_copy_is_not_recorded(copied: Callable[[nn.Module], nn.Module]) -> None:
    for found, expected in zip(trained(copied), trained(None), strict=True):
        pd.testing.assert_frame_equal(found, expected)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_of_the_scaler_is_a_plain_one(
    copied: Callable[[torch.amp.GradScaler], torch.amp.GradScaler],
) -> None:
    model, scaler = nn.Linear(2, 1), torch.amp.GradScaler("cpu", init_scale=4.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attributes = set(vars(scaler))
    with gradlab.attach(model, optimizer, scaler=scaler) as attached:
        other = copied(scaler)
        assert other.__dict__.keys() == attributes

        def step_with(each: torch.amp.GradScaler) -> None:
            each.scale(model(torch.ones(1, 2)).sum()).backward()
            each.step(optimizer)
            each.update()

        with pytest.warns(GradlabWarning, match="does not step this optimizer"):
            step_with(other)
        step_with(scaler)
    assert set(vars(scaler)) == attributes
    assert attached.table("steps")["loss_scale"].tolist() == [4.0, 4.0]


def test_complex_parameters_have_norms_and_no_headroom() -> None:
    class Rotation(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.phase = nn.Parameter(torch.tensor([3 + 4j, 1j]))
            self.scale = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return (self.phase * self.scale(x)).abs()

    torch.manual_seed(0)
    model = Rotation()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradlab.attach(model, optimizer, probes=[GradientNorms(), Headroom()]) as probes:
        model(torch.ones(1, 2)).sum().backward()
        assert model.phase.grad is not None
        size = model.phase.grad.abs().sum().item()
        optimizer.step()
    norms = probes.table("grad_norms").set_index("param")
    assert norms.loc["phase", "grad_l1"] == pytest.approx(size, rel=1e-6)
    assert "phase" not in set(probes.table("headroom")["site"])
