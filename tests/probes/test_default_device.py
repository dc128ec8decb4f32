"""Torch's default device is where a loop makes its tensors, and no place of the probes'."""

import math

import pandas as pd
import pytest
import torch
from torch import nn

import gradlab
from gradlab.probes import (
    AttentionScores,
    GradientNorms,
    Headroom,
    HiddenStates,
    LearnedScales,
    OptimizerHealth,
    StateHealth,
)
from gradlab.probes.gradient_statistics import gradient_statistics


def tables(default: str | None, optimizer: type[torch.optim.Optimizer]) -> dict[str, pd.DataFrame]:
    """Of a model on the CPU whose loop makes its tensors there, by name."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), 2
    )
    held = optimizer(model.parameters(), lr=0.01)  # type: ignore[call-arg]
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    batches = torch.randn(4, 2, 5, 8, generator=generator)
    batches[2, 0, 0, 0] = math.inf  # a bad step, which is looked at again
    probes = [
        AttentionScores(),
        GradientNorms(),
        Headroom(count=1),
        HiddenStates(),
        LearnedScales(),
        OptimizerHealth(),
        StateHealth(),
    ]
    model(batches[3]).square().mean().backward()
    held.step()  # some optimizers count their steps on the default device
    torch.set_default_device(default)
    try:
        with gradlab.attach(model, held, scaler=scaler, probes=probes) as recorded:
            for x in batches:
                held.zero_grad()
                with torch.autocast("cpu", torch.bfloat16):
                    loss = model(x).float().square().mean()
                recorded.loss(loss.item())
                scaler.scale(loss).backward()
                scaler.step(held)
                scaler.update()
        return {name: recorded.table(name) for name in recorded.run().tables}
    finally:
        torch.set_default_device(None)


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.RAdam])
def test_a_model_on_the_cpu_is_recorded_alike(optimizer: type[torch.optim.Optimizer]) -> None:
    expected = tables(None, optimizer)
    assert {"grad_norms", "headroom", "hidden", "optimizer", "faults"} <= expected.keys()
    found = tables("meta", optimizer)
    assert found.keys() == expected.keys()
    for name, table in expected.items():
        clock = [column for column in ("seconds",) if column in table]
        pd.testing.assert_frame_equal(found[name].drop(columns=clock), table.drop(columns=clock))


@pytest.mark.parametrize("size", [0, 3, 5000])
@pytest.mark.parametrize("largest", [1.0, 1e-30, math.inf])
def test_statistics_of_gradients(size: int, largest: float) -> None:
    some = [torch.full((size,), 0.5), torch.full((2,), largest)]
    expected = gradient_statistics(some)
    with torch.device("meta"):
        found = gradient_statistics(some)
        assert gradient_statistics([]).tolist() == []
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_admins_pass_is_made_on_the_cpu() -> None:
    config = gradlab.model_config("admin", "nano")
    expected = gradlab.build_model(config, device="cpu", seed=0).state_dict()
    with torch.device("meta"):
        found = gradlab.build_model(config, device="cpu", seed=0).state_dict()
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
