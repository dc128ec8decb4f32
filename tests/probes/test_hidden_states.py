"""Hidden states, against plain loops in float64."""

import copy
import math
from collections.abc import Callable
from itertools import combinations
from typing import Any

import pandas as pd
import pytest
import torch
from attention_passes import activations, hooks_of, tokens
from tiny_transformers import NO_DROPOUT, gpt2
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import gradlab
from gradlab.errors import GradlabError, GradlabWarning
from gradlab.models.build import build_model
from gradlab.models.presets import model_config
from gradlab.probes import HiddenStates

SHAPE = {"d_model": 16, "n_layers": 2, "n_heads": 2, "d_ff": 32, "max_seq_len": 8}


def record(
    model: nn.Module,
    *steps: Callable[[], Tensor],
    probe: HiddenStates | None = None,
    every: int = 1,
) -> pd.DataFrame:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    probe = probe or HiddenStates()
    with gradlab.attach(model, optimizer, probes=[probe], every=every) as probes:
        for step in steps:
            optimizer.zero_grad()
            step().float().square().mean().backward()
            optimizer.step()
    assert torch._C._len_torch_function_stack() == 0
    assert hooks_of(model) == 0
    return probes.table("hidden")


def cosine(states: Tensor) -> float:
    """(B, T, d): the mean over sequences of the mean over pairs."""
    means = []
    for sequence in states:
        pairs = [a @ b / (a.norm() * b.norm()) for a, b in combinations(sequence, 2)]
        means.append(torch.stack(pairs).mean())
    return torch.stack(means).mean().item()


def cka(x: Tensor, y: Tensor) -> float:
    """By HSIC of the Gram matrices: the other form of the same (Kornblith et al., eq. 3)."""
    n = len(x)
    centre = torch.eye(n, dtype=x.dtype) - 1 / n
    k, m = (centre @ (z @ z.T) @ centre for z in (x, y))
    return ((k * m).sum() / (k.norm() * m.norm())).item()


def check(table: pd.DataFrame, pairs: dict[str, tuple[Tensor, Tensor]], sequence: int = 1) -> None:
    """That the rows are those of (given, gives) by site."""
    assert table["site"].tolist() == list(pairs)
    for (_, row), (x, y) in zip(table.iterrows(), pairs.values(), strict=True):
        x, y = x.double(), y.double()
        rows = (z.reshape(-1, z.shape[-1]) for z in (x, y))
        expected = {
            "mean": y.mean().item(),
            "std": y.std(correction=0).item(),
            "input_mean": x.mean().item(),
            "input_std": x.std(correction=0).item(),
            "cosine": cosine(y if sequence == 1 else y.transpose(0, 1)),
            "cka": cka(*rows),
        }
        assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-4, abs=1e-6)


def seen_in_float64(model: nn.Module, layers: dict[str, nn.Module], step: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def look(name: str, args: Any, kwargs: Any, output: Any) -> None:
        x = next(v for v in (*args, *kwargs.values()) if isinstance(v, Tensor))
        y = output[0] if isinstance(output, tuple) else output
        found[name] = (x.detach(), y.detach())

    handles = [
        layer.register_forward_hook(
            lambda _, args, kwargs, out, name=name: look(name, args, kwargs, out), with_kwargs=True
        )
        for name, layer in layers.items()
    ]
    step(model)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("arch", ["pre-ln", "post-ln", "normformer-resscale"])
@pytest.mark.parametrize("attention", ["materialised", "sdpa"])
def test_our_models(arch: str, attention: str) -> None:
    model = build_model(model_config(arch, "nano", **SHAPE, attention=attention), seed=0)
    wide = copy.deepcopy(model).double()
    named = {f"blocks.{i}": block for i, block in enumerate(wide.blocks)}
    inner = {
        f"{i}.{k}": m
        for i, block in enumerate(wide.blocks)
        for k, m in enumerate((block.attn_residual, block.ffn_residual))
    }
    sums: dict[str, float] = {}
    for name, module in inner.items():
        module.register_forward_hook(
            lambda m, args, out, name=name: sums.update(
                {name: ((out - args[0]).norm() / args[0].norm()).item()}  # λ is 1 at the start
            )
        )
    pairs = seen_in_float64(wide, named, lambda m: m(tokens()))
    table = record(model, lambda: model(tokens()))
    check(table, pairs)
    assert table["layer"].tolist() == [0, 1]
    for layer, row in table.iterrows():
        assert row["first_branch"] == pytest.approx(sums[f"{layer}.0"], rel=1e-4)
        assert row["last_branch"] == pytest.approx(sums[f"{layer}.1"], rel=1e-4)
    assert table[["mean_shift", "std_shift"]].isna().all(axis=None)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_torchs_encoder(norm_first: bool, batch_first: bool) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(
        16, 2, 32, dropout=0.0, norm_first=norm_first, batch_first=batch_first
    )
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    x = activations(3, 5, 16)
    wide = copy.deepcopy(model).double()
    named = {f"layers.{i}": block for i, block in enumerate(wide.layers)}
    pairs = seen_in_float64(wide, named, lambda m: m(x.double()))
    table = record(model, lambda: model(x))
    check(table, pairs, sequence=1 if batch_first else 0)
    for (_, row), block, (given, _) in zip(
        table.iterrows(), wide.layers, pairs.values(), strict=True
    ):
        first = block._sa_block(block.norm1(given) if norm_first else given, None, None)
        skip = given + first if norm_first else block.norm1(given + first)
        last = block._ff_block(block.norm2(skip) if norm_first else skip)
        assert row["first_branch"] == pytest.approx((first.norm() / given.norm()).item(), rel=1e-4)
        assert row["last_branch"] == pytest.approx((last.norm() / skip.norm()).item(), rel=1e-4)


def test_hugging_faces_gpt2() -> None:
    torch.manual_seed(0)
    model = gpt2(use_cache=False, **NO_DROPOUT)
    wide = copy.deepcopy(model).double()
    named = {f"transformer.h.{i}": block for i, block in enumerate(wide.transformer.h)}
    branches: list[Tensor] = []
    for block in wide.transformer.h:
        block.attn.register_forward_hook(lambda m, args, out: branches.append(out[0]))
        block.mlp.register_forward_hook(lambda m, args, out: branches.append(out))
    batch = tokens(vocab=32)
    pairs = seen_in_float64(wide, named, lambda m: m(batch))
    table = record(model, lambda: model(batch).logits)
    check(table, pairs)
    assert table["layer"].tolist() == [0, 1]
    for (_, row), (given, _), first, last in zip(
        table.iterrows(), pairs.values(), branches[::2], branches[1::2], strict=True
    ):
        assert row["first_branch"] == pytest.approx((first.norm() / given.norm()).item(), rel=1e-4)
        skip = given + first
        assert row["last_branch"] == pytest.approx((last.norm() / skip.norm()).item(), rel=1e-4)


class Sums(nn.Module):
    """One layer with a sum of each spelling."""

    def __init__(self, spelling: str) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(16, 16), nn.Linear(16, 16)
        self.norm = nn.LayerNorm(16)
        self.scale = nn.Parameter(torch.full((16,), 0.5))
        self.spelling = spelling

    def forward(self, x: Tensor) -> Tensor:
        f = self.one(self.norm(x))
        if self.spelling == "in place":
            f += x
            return f
        return {
            "alpha": lambda: self.norm(3 * x + f),
            "alpha before": lambda: self.norm(f + 3 * x),
            "layer scale": lambda: x + self.scale * f,
            "torch.add": lambda: torch.add(x, f),
            "parallel": lambda: (f + self.two(x)) + x,
            "by hand": lambda: (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True) + f,
            "frozen": lambda: x + f,
            "none": lambda: torch.cat([f, x], -1)[..., :16],
        }[self.spelling]()


@pytest.mark.parametrize(
    "spelling",
    [
        *("alpha", "alpha before", "layer scale", "torch.add", "parallel", "by hand"),
        *("in place", "frozen", "none"),
    ],
)
def test_which_is_the_branch(spelling: str) -> None:
    torch.manual_seed(0)
    layer = Sums(spelling)
    model = nn.Sequential(layer)
    if spelling == "frozen":  # as LoRA has it
        layer.one.weight.requires_grad_(False)
    x = activations(3, 5, 16)
    wide, given = copy.deepcopy(layer).double(), x.double()
    branch, skip = wide.one(wide.norm(given)), given
    if spelling.startswith("alpha"):
        skip = 3 * skip
    elif spelling == "layer scale":
        branch = 0.5 * branch
    elif spelling == "parallel":
        branch = branch + wide.two(given)
    elif spelling == "by hand":
        skip = (given - given.mean(-1, keepdim=True)) / given.std(-1, keepdim=True)
    expected = math.nan if spelling == "none" else (branch.norm() / skip.norm()).item()
    (row,) = record(model, lambda: model(x)).itertuples()
    assert (row.first_branch, row.last_branch) == pytest.approx((expected,) * 2, 1e-4, nan_ok=True)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_and_micro_batches_change_nothing(reentrant: bool) -> None:
    model = build_model(model_config("pre-ln", "nano", **SHAPE), seed=0)
    first, second = copy.deepcopy(model), copy.deepcopy(model)
    expected = record(first, lambda: first(tokens()))

    for block in second.blocks:
        forward = block.forward
        block.forward = lambda x, forward=forward: checkpoint(forward, x, use_reentrant=reentrant)
    optimizer = torch.optim.SGD(second.parameters(), lr=0.1)
    with gradlab.attach(second, optimizer, probes=[HiddenStates()]) as probes:
        if not reentrant:  # which warns of it
            with torch.no_grad():
                second(tokens(5))  # a validation
        for batch in (tokens(), tokens(1)):
            second(batch).square().mean().backward()
        optimizer.step()
    found = probes.table("hidden")
    columns = ["first_branch", "last_branch"] if reentrant else []  # the passes have no graph
    pd.testing.assert_frame_equal(found.drop(columns=columns), expected.drop(columns=columns))


def test_the_drift_of_what_a_layer_is_given() -> None:
    model = nn.Sequential(nn.Identity(), nn.Linear(16, 16), nn.Linear(16, 16))
    batches = [activations(3, 5, 16, seed=seed) * (1 + seed) + seed for seed in range(5)]
    taken = iter(batches)
    table = record(model, *[lambda: model(next(taken))] * 5, every=2)
    rows = table[table["site"] == "1"]  # given the batch itself
    assert rows["step"].tolist() == [0, 2, 4]
    flat = [batches[step].double().reshape(-1, 16) for step in rows["step"]]
    for before, now, (_, row) in zip(flat[:-1], flat[1:], list(rows.iterrows())[1:], strict=True):
        size = before.std(0, correction=0).norm()
        mean = ((now.mean(0) - before.mean(0)).norm() / size).item()
        std = ((now.std(0, correction=0) - before.std(0, correction=0)).norm() / size).item()
        assert (row["mean_shift"], row["std_shift"]) == pytest.approx((mean, std), rel=1e-4)


def test_the_trajectory_is_the_same_to_the_bit() -> None:
    def weights(*probes: HiddenStates) -> list[Tensor]:
        model = build_model(model_config("post-ln", "nano", **SHAPE), seed=0)
        optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
        with gradlab.attach(model, optimizer, probes=probes):
            for seed in range(3):
                model(tokens(seed)).logsumexp(-1).mean().backward()
                optimizer.step()
        return [p.detach() for p in model.parameters()]

    for one, other in zip(weights(), weights(HiddenStates()), strict=True):
        assert torch.equal(one, other)


def test_two_identical_tokens_have_collapsed() -> None:
    model = nn.Sequential(nn.Linear(16, 16))
    table = record(model, lambda: model(activations(3, 1, 16).expand(3, 5, 16)))
    assert table["cosine"].tolist() == pytest.approx([1.0])
    table = record(model, lambda: model(activations(3, 1, 16)))
    assert table["cosine"].isna().all()  # one token has no pair


def test_a_model_without_layers_says_so() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder_a, self.encoder_b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.encoder_b(self.encoder_a(x))

    model = Named()
    with pytest.raises(GradlabError, match="HiddenStates"):
        gradlab.attach(model, probes=[HiddenStates()])
    table = record(model, lambda: model(activations(3, 4)), probe=HiddenStates("encoder_*"))
    assert table["site"].tolist() == ["encoder_a", "encoder_b"]


def test_layers_that_change_the_shape_say_so() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    with pytest.warns(GradlabWarning, match="HiddenStates"):
        assert record(model, lambda: model(activations(3, 4))).empty
