"""What probes see and leave alone: on a CPU always, on a GPU where there is one."""

import math
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import torch
from attention_passes import model_of, tokens
from devices import DEVICES, LONG_ON_CPU
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import gradlab
from gradlab.models.loss import token_loss
from gradlab.models.transformer import Transformer
from gradlab.probes import (
    AttentionScores,
    GradientNorms,
    Headroom,
    LearnedScales,
    OptimizerHealth,
    Probe,
    StateHealth,
    fused,
)
from gradlab.probes.finite import not_finite
from gradlab.probes.headroom.extremes import Extremes
from gradlab.probes.statistics import details

TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
HELD = {
    "finite": (),
    "inf": (math.inf,),
    "-inf": (-math.inf,),
    "nan": (math.nan,),
    "all": (math.nan, math.inf, -math.inf),
}


def holding(values: tuple[float, ...], dtype: torch.dtype, size: int = 70_001) -> Tensor:
    """Numbers of all magnitudes with zeros among them, and the values at the end and within."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(size, generator=generator) * 2.0 ** torch.linspace(-20, 10, size)
    x[::7] = 0
    for at, value in enumerate(values):
        x[[-1 - at, size // 2 + at]] = value
    return x.to(dtype)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("held", HELD)
def test_numbers_of_a_tensor(device: str, dtype: torch.dtype, held: str) -> None:
    there = holding(HELD[held], dtype)
    x, wide = there.to(device), there.double()
    taken = Extremes()
    taken.take(x)
    taken.take(x.view(-1, 1).expand(-1, 3).t())  # neither contiguous
    lows, highs, rows = taken.together()
    nan = wide.isnan().any()
    low, high = (math.nan, math.nan) if nan else (wide.min().item(), wide.max().item())
    for row in rows:
        assert [float(lows[row]), float(highs[row])] == pytest.approx(
            [low, high], nan_ok=True, rel=0
        )
    finite = wide[wide.isfinite()].abs()
    normal = (finite >= 2.0**-14).sum() + wide.isinf().sum()
    nonzero = (finite > 0).sum() + wide.isinf().sum() + wide.isnan().sum()
    counts = [finite.max(), wide.isinf().sum(), wide.isnan().sum(), normal, nonzero]
    assert details(x).tolist() == [number.item() for number in counts]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", TYPES)
def test_which_tensors_are_not_finite(device: str, dtype: torch.dtype) -> None:
    held = [HELD[name] for name in HELD for _ in range(2)]
    sizes = [10, 70_001] * len(HELD)
    tensors = [holding(v, dtype, n).to(device) for v, n in zip(held, sizes, strict=True)]
    indices, numbers, counted = not_finite(tensors)
    assert counted is (device == "cpu")
    found = {i: [*map(bool, row)] for i, row in zip(indices, numbers.tolist(), strict=True)}
    hides = device != "cpu" and fused.statistics(tensors) is None  # a norm's NaN hides an infinity
    for at, values in enumerate(held):
        infinite, nan = any(map(math.isinf, values)), any(map(math.isnan, values))
        expected = [infinite and not (hides and nan), nan]
        assert found.get(at, [False, False]) == expected, (values, sizes[at])


def probes() -> list[Probe]:
    chosen: list[Probe] = [GradientNorms(), LearnedScales(every=1), Headroom(count=1)]
    return [*chosen, AttentionScores(), OptimizerHealth(), StateHealth()]


def trained(
    device: str,
    attached: list[Probe],
    *,
    attention: str = "materialised",
    fused: bool = True,
    call: Callable[[Transformer], Any] = lambda model: model,
) -> tuple[list[float], "gradlab.probes.attach.Probes"]:
    """Losses of a user's own FP16 loop, the last step of which overflows, and its probes."""
    torch.manual_seed(0)
    model = model_of(attention).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=fused)
    scaler = torch.amp.GradScaler(device, init_scale=2.0**10)
    # Set up before or after torch.compile, as hooks must be there first.
    recorded = gradlab.attach(model, optimizer, scaler=scaler, probes=attached, window=3)
    called = call(model)
    losses = []
    with recorded:
        for step in range(4):
            batch = tokens(step).to(device)
            optimizer.zero_grad()
            with torch.autocast(device, torch.bfloat16 if device == "cpu" else torch.float16):
                logits = called(batch)
            loss = token_loss(logits, batch) * (2.0**120 if step == 3 else 1)
            recorded.loss(loss)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            losses.append(loss.detach())
    final = [p.detach().double().sum() for p in model.parameters()]
    return torch.stack([*map(Tensor.double, losses), *final]).tolist(), recorded


@pytest.fixture
def repeatable_kernels() -> Any:
    was = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(was)


@pytest.mark.usefixtures("repeatable_kernels")
@pytest.mark.parametrize("device", LONG_ON_CPU)
@pytest.mark.parametrize(("attention", "fused"), [("materialised", True), ("sdpa", False)])
def test_a_user_s_loop_stays_the_same_to_the_bit(device: str, attention: str, fused: bool) -> None:
    bare, _ = trained(device, [StateHealth()], attention=attention, fused=fused)
    losses, recorded = trained(device, probes(), attention=attention, fused=fused)
    assert losses == bare
    steps = recorded.table("steps")
    assert steps["loss"].tolist() == losses[:4]
    assert steps["skipped"].tolist() == [False, False, False, True]
    assert set(recorded.table("headroom")["step"]) == {0, 1, 2, 3}
    assert recorded.table("grad_norms").groupby("step")["nonfinite"].sum().gt(0).tolist() == [
        *(False, False, False, True)
    ]


def checkpointed(reentrant: bool) -> Callable[[Transformer], Transformer]:
    def wrap(model: Transformer) -> Transformer:
        for block in model.blocks:
            forward = block.forward
            block.forward = lambda x, f=forward: checkpoint(f, x, use_reentrant=reentrant)
        return model

    return wrap


@pytest.mark.usefixtures("repeatable_kernels")
@pytest.mark.parametrize("device", LONG_ON_CPU)
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_activations_are_seen_once(device: str, reentrant: bool) -> None:
    plain_losses, plain = trained(device, probes())
    losses, recorded = trained(device, probes(), call=checkpointed(reentrant))
    assert losses == plain_losses
    for table, keys in (
        # Of a segment in a pass of its own the output is another tensor: a site more.
        *([] if reentrant else [("headroom", ["step", "site", "direction", "max_abs"])]),
        ("scores", ["step", "site", "head", "bound", "max", "max_abs"]),
        ("grad_norms", ["step", "param", "grad_l1", "nonfinite"]),
    ):
        tables = [run.table(table)[keys].sort_values(keys[:4]) for run in (plain, recorded)]
        pd.testing.assert_frame_equal(*(rows.reset_index(drop=True) for rows in tables))


@pytest.mark.usefixtures("repeatable_kernels")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.parametrize("device", LONG_ON_CPU)  # torch imports its compiler, and warns of itself
def test_compiled_with_the_same_kernels(device: str) -> None:
    torch._dynamo.reset()

    def compiled(model: nn.Module) -> Any:
        return torch.compile(model, backend="aot_eager")

    chosen: list[Probe] = [GradientNorms(), LearnedScales(every=1), OptimizerHealth()]
    bare, _ = trained(device, [StateHealth()], call=compiled)
    torch._dynamo.reset()
    losses, recorded = trained(device, chosen, call=compiled)
    assert losses == bare
    assert len(recorded.table("grad_norms"))


@pytest.mark.gpu
@pytest.mark.parametrize("attention", ["materialised", "sdpa"])
def test_a_gpu_s_scores_are_the_cpu_s(attention: str) -> None:
    found = []
    for device in ("cpu", "cuda"):
        model = model_of(attention).to(device)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        chosen = [AttentionScores(exact=attention == "sdpa")]
        with gradlab.attach(model, optimizer, probes=chosen) as recorded:
            token_loss(model(tokens().to(device)), tokens().to(device)).backward()
            optimizer.step()
        found.append(recorded.table("scores"))
    pd.testing.assert_frame_equal(*found, rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
def test_passes_on_a_stream_of_their_own() -> None:
    found = []
    for stream in (torch.cuda.current_stream(), torch.cuda.Stream()):
        model = model_of("materialised").cuda()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        chosen: list[Probe] = [GradientNorms(), Headroom(count=1), AttentionScores()]
        batch = tokens().cuda()
        with gradlab.attach(model, optimizer, probes=chosen) as recorded:
            for _ in range(3):
                stream.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(stream):
                    optimizer.zero_grad()
                    token_loss(model(batch), batch).backward()
                torch.cuda.current_stream().wait_stream(stream)
                optimizer.step()
        found.append([recorded.table(name) for name in ("grad_norms", "headroom", "scores")])
    for one, other in zip(*found, strict=True):
        pd.testing.assert_frame_equal(one, other, rtol=1e-5)
