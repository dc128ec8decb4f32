"""Probes on models that gradlab has not built, trained for a few steps as their users would."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pandas as pd
import pytest
import torch
from tiny_transformers import bert, gpt2, llama
from torch import Tensor, nn
from torch.nn import functional as F

import gradlab
from gradlab.probes import GradientNorms, Headroom, LearnedScales, OptimizerHealth

VOCAB, WIDTH, LENGTH, STEPS = 19, 16, 6, 3


class Encoder(nn.Module):
    """torch's own transformer, causal."""

    def __init__(self, norm_first: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, WIDTH)
        layer = nn.TransformerEncoderLayer(
            WIDTH, 2, 32, dropout=0.1, batch_first=True, norm_first=norm_first
        )
        self.encoder = nn.TransformerEncoder(layer, 2, nn.LayerNorm(WIDTH), False)
        self.head = nn.Linear(WIDTH, VOCAB)

    def forward(self, tokens: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        return self.head(self.encoder(self.embed(tokens), mask, is_causal=True))


class Block(nn.Module):
    """A Pre-LN block as tutorials write it: attention that returns a pair, an FFN in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.before_attention = nn.LayerNorm(WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, 2)
        self.before_ffn = nn.LayerNorm(WIDTH)
        self.ffn = nn.Sequential(nn.Linear(WIDTH, 32), nn.ReLU(), nn.Linear(32, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        h = self.before_attention(x)
        x = x + self.attention(h, h, h)[0]
        return x + self.ffn(self.before_ffn(x))


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, WIDTH)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(WIDTH, VOCAB)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens).transpose(0, 1)  # (T, B, D)
        for block in self.blocks:
            x = block(x)
        return self.head(x.transpose(0, 1))


class Residual(nn.Module):
    """A ResNet's block, with what spoils full backward hooks: in-place ReLU and `y += x`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += x
        return self.relu(y)


class ConvNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.layers = nn.Sequential(Residual(8), Residual(8))
        self.head = nn.Linear(8, VOCAB)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.layers(self.stem(images)).mean((2, 3)))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, WIDTH)
        self.lstm = nn.LSTM(WIDTH, WIDTH, 2, batch_first=True)
        self.head = nn.Linear(WIDTH, VOCAB)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.lstm(self.embed(tokens))[0])


class Experts(nn.Module):
    """A mixture in which a token goes to one expert, and the last expert never gets any."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, WIDTH)
        self.router = nn.Linear(WIDTH, 3)
        self.experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.norm = nn.RMSNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCAB)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        weight, chosen = self.router(x).softmax(-1).max(-1)
        y = torch.zeros_like(x)
        for index, expert in enumerate(self.experts[:3]):  # some of them without a token
            y[chosen == index] = expert(x[chosen == index]) * weight[chosen == index].unsqueeze(-1)
        return self.head(self.norm(x + y))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "encoder-post": lambda: Encoder(norm_first=False),
    "encoder-pre": lambda: Encoder(norm_first=True),
    "blocks": Blocks,
    "gpt2": lambda: gpt2(vocab_size=VOCAB, n_positions=LENGTH),
    "bert": lambda: bert(vocab_size=VOCAB, max_position_embeddings=LENGTH),
    "llama": lambda: llama(vocab_size=VOCAB, max_position_embeddings=LENGTH, num_key_value_heads=1),
    "convnet": ConvNet,
    "lstm": Recurrent,
    "experts": Experts,
}

SCALES: dict[str, set[str]] = {
    "encoder-post": {
        *(f"encoder.layers.{i}.norm{j}.weight" for i in (0, 1) for j in (1, 2)),
        "encoder.norm.weight",
    },
    "blocks": {
        f"blocks.{i}.{name}.weight" for i in (0, 1) for name in ("before_attention", "before_ffn")
    },
    "gpt2": {
        *(f"transformer.h.{i}.ln_{j}.weight" for i in (0, 1) for j in (1, 2)),
        "transformer.ln_f.weight",
    },
    "bert": {
        *(f"bert.encoder.layer.{i}.attention.output.LayerNorm.weight" for i in (0, 1)),
        *(f"bert.encoder.layer.{i}.output.LayerNorm.weight" for i in (0, 1)),
        "bert.embeddings.LayerNorm.weight",
        "cls.predictions.transform.LayerNorm.weight",
    },
    "llama": {
        *(f"model.layers.{i}.input_layernorm.weight" for i in (0, 1)),
        *(f"model.layers.{i}.post_attention_layernorm.weight" for i in (0, 1)),
        "model.norm.weight",
    },
    "convnet": {f"layers.{i}.bn{j}.weight" for i in (0, 1) for j in (1, 2)},
    "lstm": set(),
    "experts": {"norm.weight"},
}
SCALES["encoder-pre"] = SCALES["encoder-post"]


def batch(name: str, step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    if name == "convnet":
        images = torch.randn(3, 3, 7, 7, generator=generator)
        return images, torch.randint(VOCAB, (3,), generator=generator)
    tokens = torch.randint(VOCAB, (2, LENGTH + 1), generator=generator)
    return tokens[:, :-1], tokens[:, 1:]


def loss_of(name: str, model: nn.Module, step: int) -> Tensor:
    inputs, targets = batch(name, step)
    output = model(inputs)
    logits = output if isinstance(output, Tensor) else output.logits
    return F.cross_entropy(logits.reshape(-1, VOCAB), targets.reshape(-1))


def make(name: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = MODELS[name]().train()
    return model, torch.optim.AdamW(model.parameters(), lr=1e-2)


class Watch:
    """What a person would keep to know the truth: whole tensors, by the plainest hooks."""

    def __init__(self) -> None:
        self.gradients: dict[tuple[int, str], Tensor] = {}
        self.updates: dict[tuple[int, str], tuple[Tensor, Tensor]] = {}
        self.losses: list[Tensor] = []
        self.outputs: dict[str, Tensor] = {}


def train(name: str, model: nn.Module, optimizer: torch.optim.Optimizer, watch: Watch) -> None:
    torch.manual_seed(1)
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = loss_of(name, model, step)
        loss.backward()
        before = {n: p.detach().double().clone() for n, p in model.named_parameters()}
        for n, p in model.named_parameters():
            if p.grad is not None:
                watch.gradients[step, n] = p.grad.double().clone()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        for n, p in model.named_parameters():
            watch.updates[step, n] = (before[n], p.detach().double().clone())
        watch.losses.append(loss.detach())


def state_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Any]:
    """All hooks, and the names of all attributes: where something could be left behind."""
    state: list[Any] = [
        {kind: list(hooks) for kind, hooks in vars(module).items() if kind.endswith("_hooks")}
        for module in model.modules()
    ]
    state += [set(vars(x)) for x in (*model.modules(), optimizer)]
    state += [
        list(hooks or {})
        for p in model.parameters()
        for hooks in (p._backward_hooks, p._post_accumulate_grad_hooks)
    ]
    state += [len(optimizer._optimizer_step_pre_hooks), len(optimizer._optimizer_step_post_hooks)]
    return state


class Outputs:
    """The largest magnitude of what each module gave, and of the gradient there."""

    def __init__(self, model: nn.Module) -> None:
        self.largest: dict[str, float] = {}
        self.gradients: dict[str, float] = {}
        self.passed_on: set[str] = set()
        self._seen: list[tuple[Tensor, int]] = []
        self.handles = [
            module.register_forward_hook(self._keep(name))
            for name, module in model.named_modules()
            if name and not isinstance(module, nn.Dropout | nn.Identity)
        ]

    def _keep(self, name: str) -> Callable[..., None]:
        def keep(module: nn.Module, args: Any, output: Any) -> None:
            x = output if isinstance(output, Tensor) else output[0]
            if any(x is y and x._version == version for y, version in self._seen):
                self.passed_on.add(name)
            elif x.numel():
                self._note(self.largest, name, x.detach())
                if x.requires_grad:
                    x.register_hook(partial(self._note, self.gradients, name))
            self._seen.append((x, x._version))

        return keep

    def _note(self, largest: dict[str, float], name: str, x: Tensor) -> None:
        largest[name] = max(x.double().abs().max().item(), largest.get(name, 0.0))


@pytest.mark.parametrize("name", MODELS)
def test_probes_are_right_and_change_nothing(name: str) -> None:
    model, optimizer = make(name)
    bare = Watch()
    train(name, model, optimizer, bare)
    weights = [p.detach().clone() for p in model.parameters()]

    model, optimizer = make(name)
    before = state_of(model, optimizer)
    probes = [GradientNorms(), Headroom(), OptimizerHealth()]
    scales = [LearnedScales()] if SCALES[name] else []
    seen = Watch()
    with gradlab.attach(model, optimizer, probes=[*probes, *scales]) as attached:
        train(name, model, optimizer, seen)
    assert state_of(model, optimizer) == before

    assert all(torch.equal(a, b) for a, b in zip(bare.losses, seen.losses, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))
    check_gradients(attached.table("grad_norms"), seen)
    check_updates(attached.table("optimizer"), seen)
    assert len(attached.table("overflows")) == 0
    if SCALES[name]:
        assert set(attached.table("scales")["param"]) == SCALES[name]


def check_gradients(table: pd.DataFrame, seen: Watch) -> None:
    rows = table.set_index(["step", "param"])
    assert set(rows.index) == set(seen.gradients)
    for key, g in seen.gradients.items():
        row = rows.loc[key]
        assert row["numel"] == g.numel()
        assert row["grad_l1"] == pytest.approx(g.abs().sum().item(), rel=1e-6), key
        assert row["grad_l2"] == pytest.approx(g.square().sum().sqrt().item(), rel=1e-6), key
        assert row["grad_max_abs"] == g.abs().max().item(), key
        assert row["nonfinite"] == 0


def check_updates(table: pd.DataFrame, seen: Watch) -> None:
    rows = table.set_index(["step", "param"])
    assert set(rows.index) == set(seen.updates)
    for key, (before, after) in seen.updates.items():
        row = rows.loc[key]
        assert row["param_rms"] == pytest.approx(after.square().mean().sqrt().item(), rel=1e-6)
        update = (after - before).square().mean().sqrt().item()
        assert row["update_rms"] == pytest.approx(update, rel=1e-4, abs=1e-9), key


@pytest.mark.parametrize("name", MODELS)
def test_headroom_is_the_obvious_computation(name: str) -> None:
    model, _ = make(name)
    obvious = Outputs(model)
    torch.manual_seed(1)
    loss_of(name, model, 0).backward()

    model, optimizer = make(name)
    with gradlab.attach(model, optimizer, probes=[Headroom()]) as probes:
        torch.manual_seed(1)
        loss_of(name, model, 0).backward()
        optimizer.step()
    rows = probes.table("headroom").set_index(["direction", "site"])
    assert rows.index.is_unique
    forward = rows.loc["forward"]
    firsts = {site for site in forward.index if "[" not in site}  # a module's several outputs
    assert firsts == set(obvious.largest)
    assert not obvious.passed_on & firsts
    for site, largest in obvious.largest.items():
        assert forward.loc[site, "max_abs"] == largest, site
        assert forward.loc[site, "headroom_bits"] == pytest.approx(math.log2(65504 / largest)), site
    backward = rows.loc["backward"]
    assert set(obvious.gradients) == {site for site in backward.index if "[" not in site}
    for site, largest in obvious.gradients.items():
        assert backward.loc[site, "max_abs"] == largest, site
