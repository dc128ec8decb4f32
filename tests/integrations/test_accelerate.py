"""With Accelerate, attach takes what `prepare` gave; values are those of a plain loop."""

import math
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import gradlab
from gradlab.probes import GradientNorms

# Accelerate takes seconds to import.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("accelerate") is None, reason="needs accelerate"),
]

CLIP = 0.05
LR = 0.5


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 3))


def batches() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(4, 6, generator=generator) for _ in range(8)]


def loss_of(model: nn.Module, inputs: Tensor) -> Tensor:
    return F.cross_entropy(model(inputs), inputs[:, :3].argmax(dim=1))


def train(record: bool, init_scale: float | None = None, clip: bool = True) -> tuple[Any, Any]:
    """(the model, the probes if there were any) after Accelerate's loop."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    if init_scale:  # Accelerate makes one for FP16, which it has on a GPU only
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=init_scale)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    data: DataLoader[Any] = DataLoader(batches(), batch_size=None)
    model, optimizer, loader = accelerator.prepare(model, optimizer, data)
    probes = None
    if record:
        chosen = [GradientNorms()]
        probes = gradlab.attach(model, optimizer, scaler=accelerator.scaler, probes=chosen)
    for inputs in loader:
        with accelerator.accumulate(model):
            loss = loss_of(model, inputs)
            if probes:
                probes.loss(loss)
            accelerator.backward(loss)
            if clip and accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            optimizer.zero_grad()
    if probes:
        probes.close()
    return model, probes


def by_hand(clip: bool) -> list[Any]:
    """(mean loss, gradient by parameter before clipping) of each step, in float64."""
    net, found, data = network().double(), [], batches()
    for first, second in zip(data[::2], data[1::2], strict=True):
        net.zero_grad()
        loss = (loss_of(net, first.double()) + loss_of(net, second.double())) / 2
        loss.backward()
        found.append((loss.item(), {n: p.grad.clone() for n, p in net.named_parameters()}))
        if clip:
            nn.utils.clip_grad_norm_(net.parameters(), CLIP)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter -= LR * parameter.grad
    return found


@pytest.mark.parametrize("init_scale", [None, 1024.0])
def test_gradients_are_the_whole_batchs_before_clipping(init_scale: float | None) -> None:
    clip = init_scale is None  # without FP16, Accelerate clips what is scaled
    _, probes = train(record=True, init_scale=init_scale, clip=clip)
    steps, norms = probes.table("steps"), probes.table("grad_norms")
    expected = by_hand(clip)
    assert steps["loss"].tolist() == pytest.approx([loss for loss, _ in expected], rel=1e-5)
    assert steps["loss_scale"].tolist() == [init_scale or 1.0] * 4
    for step, (_, gradients) in enumerate(expected):
        rows = norms[norms["step"] == step].set_index("param")
        for name, gradient in gradients.items():
            l1 = gradient.abs().sum().item()
            assert rows.loc[name, "grad_l1"] == pytest.approx(l1, rel=1e-4, abs=1e-6), name


def test_a_skipped_step_is_one() -> None:
    _, probes = train(record=True, init_scale=math.inf)
    assert probes.table("steps")["skipped"].tolist() == [True] * 4


@pytest.mark.parametrize("init_scale", [None, 1024.0, math.inf])
def test_training_is_the_same_to_the_bit(init_scale: float | None) -> None:
    models = [train(record, init_scale)[0] for record in (True, False)]
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(one, other)
