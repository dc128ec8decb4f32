"""The recorded gradient is the one that a person means, whatever the training loop does to it."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import gradlab
from gradlab.errors import GradlabError, GradlabWarning
from gradlab.probes import GradientNorms, Headroom, LearnedScales, OptimizerHealth

Expected = dict[tuple[int, str], dict[str, float]]


class Net(nn.Module):
    """Two layers with a tied embedding, a module used twice, and a parameter that is never used."""

    def __init__(self, sparse: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(17, 8, sparse=sparse)
        self.norm = nn.LayerNorm(8)
        self.twice = nn.Linear(8, 8)
        self.out = nn.Linear(8, 17, bias=False)
        self.unused = nn.Parameter(torch.ones(3))
        if not sparse:
            self.out.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.norm(self.embed(tokens))
        return self.out(self.twice(torch.relu(self.twice(x))))


def loss_of(model: nn.Module, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(17, (4, 6), generator=generator)
    return nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def obvious(model: nn.Module, factor: float = 1.0) -> dict[str, dict[str, float]]:
    """Every gradient's statistics as one would write them down, in float64."""
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            continue
        g = parameter.grad.to_dense().double() / factor
        finite = g[g.isfinite()]
        found[name] = {
            "grad_l1": finite.abs().sum().item(),
            "grad_l2": finite.square().sum().sqrt().item(),
            "grad_max_abs": finite.abs().max().item() if len(finite) else 0.0,
            "nonfinite": float((~g.isfinite()).sum()),
        }
    return found


def check(table: pd.DataFrame, expected: list[dict[str, dict[str, float]]]) -> None:
    rows = table.set_index(["step", "param"])
    assert set(rows.index) == {(step, name) for step, e in enumerate(expected) for name in e}
    for step, parameters in enumerate(expected):
        for name, values in parameters.items():
            for column, value in values.items():
                assert rows.loc[(step, name), column] == pytest.approx(value, rel=1e-6), (
                    name,
                    column,
                )


def make(seed: int = 0, **options: Any) -> Net:
    torch.manual_seed(seed)
    return Net(**options)


OPTIMIZERS: dict[str, Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer]] = {
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=1e-2),
    "fused": lambda parameters: torch.optim.AdamW(parameters, lr=1e-2, fused=True),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=1e-1),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("unscale", [False, True])
@pytest.mark.parametrize("scale", [1024.0, 2.0**127])
def test_unscaled_and_before_clipping_whether_or_not_the_step_is_skipped(
    kind: str, unscale: bool, scale: float
) -> None:
    model = make()
    optimizer = OPTIMIZERS[kind](model.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=2)
    expected, scales = [], []
    with gradlab.attach(model, optimizer, scaler=scaler, probes=[GradientNorms()]) as probes:
        for step in range(4):
            optimizer.zero_grad()
            scales.append(scaler.get_scale())
            scaler.scale(loss_of(model, step) * 8).backward()
            expected.append(obvious(model, scales[-1]))
            if unscale:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
            scaler.step(optimizer)
            scaler.update()
    check(probes.table("grad_norms"), expected)
    steps = probes.table("steps")
    assert steps["loss_scale"].tolist() == scales
    nexts = [*scales[1:], scaler.get_scale()]
    assert steps["skipped"].tolist() == [b < a for a, b in zip(scales, nexts, strict=True)]
    assert steps["skipped"].any() == (scale > 1e38)


def test_without_scaling_before_clipping_and_summed_over_micro_batches() -> None:
    model = make()
    optimizer = torch.optim.AdamW(model.parameters())
    expected = []
    with gradlab.attach(model, optimizer, probes=[GradientNorms()]) as probes:
        for step in range(3):
            optimizer.zero_grad()
            for micro in range(3):
                (loss_of(model, 10 * step + micro) / 3).backward()
            expected.append(obvious(model))
            nn.utils.clip_grad_norm_(model.parameters(), 1e-4)
            optimizer.step()
    check(probes.table("grad_norms"), expected)


def test_sparse_gradients() -> None:
    model = make(sparse=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradlab.attach(model, optimizer, probes=[GradientNorms()]) as probes:
        loss_of(model, 0).backward()
        assert model.embed.weight.grad is not None
        assert model.embed.weight.grad.is_sparse
        expected = obvious(model)
        optimizer.step()
    check(probes.table("grad_norms"), [expected])
    table = probes.table("grad_norms").set_index("param")
    assert table.loc["embed.weight", "numel"] == 17 * 8


def test_frozen_and_unused_parameters_have_no_rows_and_tied_ones_have_one() -> None:
    model = make()
    model.norm.requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters())
    with gradlab.attach(model, optimizer, probes=[GradientNorms()]) as probes:
        loss_of(model, 0).backward()
        optimizer.step()
    names = probes.table("grad_norms")["param"].tolist()
    assert sorted(names) == ["embed.weight", "twice.bias", "twice.weight"]


def test_two_optimizers_make_one_step() -> None:
    model = make()
    first = torch.optim.SGD(model.twice.parameters(), lr=0.1)
    second = torch.optim.AdamW([model.embed.weight], lr=0.1)
    expected = []
    with gradlab.attach(model, [first, second], probes=[GradientNorms()]) as probes:
        for step in range(3):
            model.zero_grad()
            loss_of(model, step).backward()
            expected.append(obvious(model))
            first.step()
            second.step()
    check(probes.table("grad_norms"), expected)


def test_two_optimizers_that_take_turns_make_two_steps() -> None:
    model = make()
    turns = [
        torch.optim.SGD(model.twice.parameters(), lr=0.1),
        torch.optim.SGD([model.embed.weight], lr=0.1),
    ]
    expected = []
    with gradlab.attach(model, turns, probes=[GradientNorms()]) as probes:
        for step in range(4):
            model.zero_grad()
            loss_of(model, step).backward()
            others = ("embed", "twice")[step % 2]  # and what no optimizer holds is nobody's
            found = obvious(model).items()
            expected.append({name: row for name, row in found if not name.startswith(others)})
            turns[step % 2].step()
    check(probes.table("grad_norms"), expected)


def test_a_closure_counts_as_one_step_with_its_last_gradient() -> None:
    model = make()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)
    last: dict[str, dict[str, float]] = {}
    expected = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(model, 0)
        loss.backward()
        last.clear()
        last.update(obvious(model))
        return loss

    with gradlab.attach(model, optimizer, probes=[GradientNorms()]) as probes:
        for _ in range(2):
            optimizer.step(closure)
            expected.append(dict(last))
    check(probes.table("grad_norms"), expected)


def test_a_pass_that_raised_does_not_spoil_the_next() -> None:
    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            raise RuntimeError("in the middle of a backward pass")

    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradlab.attach(model, optimizer, probes=[GradientNorms()]) as probes:
        handle = model.norm.register_forward_hook(lambda m, args, output: Fails.apply(output))
        with pytest.raises(RuntimeError, match="middle"):
            loss_of(model, 0).backward()
        handle.remove()
        model.zero_grad()
        loss_of(model, 1).backward()
        expected = obvious(model)
        optimizer.step()
    check(probes.table("grad_norms"), [expected])


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        def body(x: Tensor) -> Tensor:
            return self.second(torch.relu(self.first(x)))

        if self.reentrant is None:
            return body(x)
        out: Tensor = checkpoint(body, x, use_reentrant=self.reentrant)
        return out


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("micro", [1, 2])
def test_what_checkpointing_computes_again_is_recorded_once(reentrant: bool, micro: int) -> None:
    tables = []
    for kind in (None, reentrant):
        torch.manual_seed(0)
        model = Checkpointed(kind)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with gradlab.attach(model, optimizer, probes=[GradientNorms(), Headroom()]) as probes:
            for _ in range(2 * micro):
                model(torch.randn(3, 8, requires_grad=True)).square().sum().backward()
                if (_ + 1) % micro == 0:
                    optimizer.step()
                    optimizer.zero_grad()
        keys = ["step", "site", "direction"]
        headroom = probes.table("headroom").sort_values(keys, ignore_index=True)
        tables.append((headroom, probes.table("grad_norms").sort_values(["step", "param"])))
    assert not tables[1][0].duplicated(["step", "site", "direction"]).any()
    pd.testing.assert_frame_equal(tables[0][0], tables[1][0])
    pd.testing.assert_frame_equal(*(t[1].reset_index(drop=True) for t in tables))


@pytest.mark.parametrize("kind", ["adamw", "fused", "sgd", "amsgrad"])
@pytest.mark.parametrize("scale", [8.0, 2.0**127])
def test_what_the_optimizer_did(kind: str, scale: float) -> None:
    model = make()
    options: dict[str, Any] = {"lr": 1e-2, "betas": (0.9, 0.95), "eps": 1e-3}
    optimizer: torch.optim.Optimizer
    if kind == "sgd":
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    else:
        optimizer = torch.optim.AdamW(
            model.parameters(), fused=kind == "fused", amsgrad=kind == "amsgrad", **options
        )
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    expected: Expected = {}
    with gradlab.attach(model, optimizer, scaler=scaler, probes=[OptimizerHealth()]) as probes:
        for step in range(3):
            before = {n: p.detach().double().clone() for n, p in model.named_parameters()}
            optimizer.zero_grad()
            scaler.scale(loss_of(model, step) * 8).backward()
            scaler.step(optimizer)
            scaler.update()
            for name, parameter in model.named_parameters():
                now = parameter.detach().double()
                state = optimizer.state.get(parameter, {})
                row = {
                    "param_rms": now.square().mean().sqrt().item(),
                    "update_rms": (now - before[name]).square().mean().sqrt().item(),
                    "eps_frac": math.nan,
                }
                if "exp_avg_sq" in state:
                    name_of_v = "max_exp_avg_sq" if kind == "amsgrad" else "exp_avg_sq"
                    v = state[name_of_v].double() / (1 - 0.95 ** state["step"].item())
                    row["eps_frac"] = (v.sqrt() < 1e-3).double().mean().item()
                expected[step, name] = row
    table = probes.table("optimizer").set_index(["step", "param"])
    assert set(table.index) == set(expected)
    for key, row in expected.items():
        assert table.loc[key, "param_rms"] == pytest.approx(row["param_rms"], rel=1e-6)
        assert table.loc[key, "update_rms"] == pytest.approx(row["update_rms"], rel=1e-4, abs=1e-9)
        assert table.loc[key, "eps_frac"] == pytest.approx(row["eps_frac"], nan_ok=True)
    skipped = probes.table("steps")["skipped"]
    assert skipped.any() == (scale > 1e38)
    assert (table["update_rms"][skipped[table.index.get_level_values(0)].to_numpy()] == 0).all()


def test_a_loss_is_one_number_and_what_it_was_when_it_was_given() -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradlab.attach(model, optimizer) as probes:
        loss = model(torch.ones(3, 2)).square()
        with pytest.raises(GradlabError, match=r"shape \(3, 1\): give one number"):
            probes.loss(loss)
        mean = loss.mean()
        expected = mean.item()
        probes.loss(mean)
        mean /= 4
        mean.backward()
        optimizer.step()
    assert probes.table("steps")["loss"].tolist() == [pytest.approx(expected)]


def test_scales_have_the_values_with_which_the_step_was_computed() -> None:
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    expected = []
    with gradlab.attach(model, optimizer, probes=[LearnedScales(every=2)]) as probes:
        for step in range(4):
            if step % 2 == 0:
                expected += model.norm.weight.tolist()
            optimizer.zero_grad()
            loss_of(model, step).backward()
            optimizer.step()
    table = probes.table("scales")
    assert table["value"].tolist() == expected
    assert table["index"].tolist() == [*range(8)] * 2
    assert set(table["param"]) == {"norm.weight"}


@pytest.mark.parametrize("kind", ["adamw", "fused"])
def test_scaling_that_was_not_told_is_said_once(kind: str) -> None:
    model = make()
    optimizer = OPTIMIZERS[kind](model.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)

    def train() -> None:
        for step in range(3):
            optimizer.zero_grad()
            scaler.scale(loss_of(model, step)).backward()
            scaler.step(optimizer)
            scaler.update()

    with (
        pytest.warns(GradlabWarning, match="Pass scaler= to attach") as said,
        gradlab.attach(model, optimizer, probes=[GradientNorms()]),
    ):
        train()
    assert len(said) == 1


def test_a_scaler_that_is_switched_off_is_none() -> None:
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    with gradlab.attach(model, optimizer, scaler=scaler, probes=[GradientNorms()]) as probes:
        scaler.scale(loss_of(model, 0)).backward()
        expected = obvious(model)
        scaler.step(optimizer)
        scaler.update()
    check(probes.table("grad_norms"), [expected])
    assert probes.table("steps")["loss_scale"].tolist() == [1.0]
