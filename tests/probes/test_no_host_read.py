"""Between two flushes nothing in gradlab waits for a number of the device."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from devices import never_waiting
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import gradlab
from gradlab.errors import GradlabWarning
from gradlab.models.build import build_model
from gradlab.models.loss import token_loss
from gradlab.models.presets import model_config
from gradlab.probes import GradientNorms, Headroom, LearnedScales, OptimizerHealth, Probe

READS = (
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.item.default,
    torch.ops.aten.is_nonzero.default,
    torch.ops.aten.equal.default,
)


class NoHostRead(TorchDispatchMode):
    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in READS:
            raise AssertionError(f"{func} reads a value on the host")
        return func(*args, **(kwargs or {}))


class NoTransfer(TorchDispatchMode):
    """A copy between host and device waits for the device, as a read does."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            devices = {x.device for x in (*args, out) if isinstance(x, Tensor)}
            assert len(devices) == 1, f"{func} copies between devices"
        return out


def make(device: str) -> nn.Module:
    shape = {"d_model": 16, "n_layers": 2, "n_heads": 2, "d_ff": 32, "max_seq_len": 8}
    return build_model(model_config("normformer-resscale", "nano", **shape), device=device, seed=0)


def probes() -> list[Probe]:
    return [GradientNorms(), LearnedScales(every=1), Headroom(sample=2), OptimizerHealth()]


def tokens_on(device: str) -> Tensor:
    tokens = torch.randint(256, (2, 9), generator=torch.Generator().manual_seed(0))
    return tokens.to(device)


def loss_of(model: nn.Module, tokens: Tensor) -> Tensor:
    return token_loss(model(tokens[:, :-1]), tokens[:, 1:])


@pytest.mark.parametrize("read", [Tensor.item, float, bool, lambda x: torch.equal(x, x)])
def test_a_read_is_noticed(read: Callable[[Tensor], Any]) -> None:
    with pytest.raises(AssertionError, match="on the host"), NoHostRead():
        read(torch.ones(()))


def test_a_transfer_is_noticed() -> None:
    with pytest.raises(AssertionError, match="between devices"), NoTransfer():
        torch.ones(()).to("meta")


@pytest.mark.slow  # torch imports what computes shapes
def test_on_the_meta_device_where_nothing_could_be_read() -> None:
    model = make("meta")
    optimizer = torch.optim.AdamW(model.parameters(), foreach=True)
    tokens = tokens_on("meta")
    attached = gradlab.attach(model, optimizer, probes=probes(), window=10)
    with NoTransfer():
        for _ in range(4):
            optimizer.zero_grad()
            loss = loss_of(model, tokens)
            attached.loss(loss)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    with pytest.warns(GradlabWarning, match="hold no numbers"):
        attached.flush()
    loss_of(model, tokens).backward()
    optimizer.step()
    attached.close()  # says nothing more
    assert len(attached.table("steps")) == 0
    assert len(attached.table("grad_norms")) == 0


def test_a_model_on_several_devices() -> None:
    """The meta device stands in for a second one: numbers it has none of."""
    model = nn.ModuleDict(
        {"a": nn.Linear(3, 2, device="meta"), "b": nn.Linear(2, 4), "c": nn.LayerNorm(4)}
    )
    optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
    chosen: list[Probe] = [OptimizerHealth(), LearnedScales(), GradientNorms()]
    attached = gradlab.attach(model, optimizer, probes=chosen)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    with pytest.warns(GradlabWarning, match="hold no numbers"):
        attached.close()


@pytest.mark.parametrize("scaled", [False, True])
def test_between_flushes_on_a_cpu(scaled: bool) -> None:
    model = make("cpu")
    # A fused optimizer: the others read their own step count, and the scaler's verdict.
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, enabled=scaled)
    tokens = tokens_on("cpu")
    scaler.scale(torch.ones(()))  # makes its tensors
    attached = gradlab.attach(model, optimizer, scaler=scaler, probes=probes(), window=10)
    with NoHostRead():
        for _ in range(4):
            optimizer.zero_grad()
            loss = loss_of(model, tokens) * 1000
            attached.loss(loss)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    attached.close()
    assert set(attached.table("steps")["skipped"]) == ({True} if scaled else {False})


@pytest.mark.gpu
@pytest.mark.parametrize("scaled", [False, True])
def test_between_flushes_on_a_gpu(scaled: bool) -> None:
    model = make("cuda")
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**20, enabled=scaled)
    tokens = tokens_on("cuda")
    with gradlab.attach(model, optimizer, scaler=scaler, probes=probes(), window=10) as attached:
        for step in range(6):
            with never_waiting() if step else nullcontext():  # the first makes buffers
                optimizer.zero_grad()
                with torch.autocast("cuda", torch.float16, enabled=scaled):
                    loss = loss_of(model, tokens)
                attached.loss(loss)
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
    assert len(attached.table("steps")) == 6
    assert len(attached.table("optimizer")) == 6 * len(list(model.parameters()))
