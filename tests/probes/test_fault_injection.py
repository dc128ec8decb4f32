"""A weight made too large somewhere, and whether the site that overflows is the one named."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
import pytest
import torch
from tiny_transformers import bert, gpt2, llama
from torch import Tensor, nn
from torch.nn import functional as F

import gradlab
from gradlab.models.attention import Scores
from gradlab.models.build import build_model
from gradlab.models.presets import ARCHITECTURES, model_config
from gradlab.probes import Headroom

VOCAB, WIDTH, LENGTH = 32, 16, 8


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.norm2 = nn.LayerNorm(WIDTH)
        self.ffn = nn.Sequential(nn.Linear(WIDTH, 32), nn.GELU(), nn.Linear(32, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(x)
        x = x + self.attention(h, h, h, need_weights=False)[0]
        return x + self.ffn(self.norm2(x))


class MLP(nn.Module):
    """Residual, without norms: nothing makes a large value small again."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ModuleList(nn.Linear(WIDTH, 32) for _ in range(3))
        self.down = nn.ModuleList(nn.Linear(32, WIDTH) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for up, down in zip(self.up, self.down, strict=True):
            x = x + down(F.relu(up(x)))
        return x


class Language(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, WIDTH)
        self.body = body
        self.head = nn.Linear(WIDTH, VOCAB)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.body(self.embed(tokens)))


def own(rng: random.Random) -> nn.Module:
    shape = {"d_model": WIDTH, "n_layers": 2, "n_heads": 2, "d_ff": 32, "max_seq_len": LENGTH}
    arch = rng.choice(list(ARCHITECTURES))
    qkv_norm = rng.random() < 0.3 and "qk_norm" not in ARCHITECTURES[arch]
    config = model_config(arch, "nano", **shape, vocab_size=VOCAB, qkv_norm=qkv_norm)
    return build_model(config, seed=rng.randrange(1000))


MODELS: list[Callable[[random.Random], nn.Module]] = [
    own,
    own,
    lambda rng: Language(nn.Sequential(Block(), Block())),
    lambda rng: Language(MLP()),
    lambda rng: gpt2(attn_implementation=rng.choice(["eager", "sdpa"])),
]


@dataclass(frozen=True)
class Fault:
    """Weights that are scaled, and the site that overflows by it."""

    site: str
    weights: tuple[str, ...]


def faults(model: nn.Module) -> list[Fault]:
    """Every site whose FP16 output a weight of its own, or two before it, can make too large."""
    found = []
    for name, module in model.named_modules():
        own = [n for n, p in module.named_parameters(recurse=False) if p.dim() == 2]
        if isinstance(module, nn.MultiheadAttention):
            found += [Fault(name, (f"{name}.in_proj_weight",))]
            found += [Fault(name, (f"{name}.out_proj.weight",))]
        elif own and not isinstance(module, nn.Embedding) and not name.endswith("out_proj"):
            found.append(Fault(name, (f"{name}.weight",)))
        elif isinstance(module, Scores) and parent_of(model, name).q_norm is None:
            attention = name.removesuffix(".scores")
            found.append(Fault(name, (f"{attention}.q.weight", f"{attention}.k.weight")))
    return found


def parent_of(model: nn.Module, name: str) -> nn.Module:
    return model.get_submodule(name.rpartition(".")[0])


def inject(model: nn.Module, fault: Fault, rng: random.Random) -> None:
    """Scale the weights: one up to what still fits FP16, two so that their product does not."""
    largest = math.exp(rng.uniform(math.log(1e4), math.log(6e4)))
    if len(fault.weights) == 2:
        largest **= 0.5
    with torch.no_grad():
        for name in fault.weights:
            weight = model.get_parameter(name)
            weight *= largest / weight.abs().max()


def tokens_of(rng: random.Random) -> Tensor:
    generator = torch.Generator().manual_seed(rng.randrange(1000))
    return torch.randint(VOCAB, (2, LENGTH), generator=generator)


def forward(model: nn.Module, tokens: Tensor) -> Tensor:
    torch.manual_seed(0)  # for dropout
    with torch.autocast("cpu", torch.float16):
        output = model(tokens)
    logits = output if isinstance(output, Tensor) else output.logits
    return F.cross_entropy(logits.float().flatten(0, 1), tokens.flatten())


def overflows_there(model: nn.Module, site: str, tokens: Tensor) -> bool:
    """Whether a plain hook sees that the site's output, whose input was finite, is not."""
    seen: list[bool] = []

    def look(module: nn.Module, args: Any, output: Any) -> None:
        output = output if isinstance(output, Tensor) else output[0]
        whole = all(bool(x.isfinite().all()) for x in args)
        if isinstance(module, Scores):
            output = output.tril()
        seen.append(whole and output.dtype is torch.half and not bool(output.isfinite().all()))

    handle = model.get_submodule(site).register_forward_hook(look)
    with torch.no_grad(), gradlab.emulated_fp16():
        forward(model, tokens)
    handle.remove()
    return seen == [True]


def record(model: nn.Module, tokens: Tensor, scale: float = 1.0) -> pd.DataFrame:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with gradlab.attach(model, optimizer, probes=[Headroom()]) as probes:
        with gradlab.emulated_fp16():
            (forward(model, tokens) * scale).backward()
        optimizer.step()
    return probes.table("overflows")


def case(seed: int) -> tuple[nn.Module, Fault, Tensor]:
    """A random model with a fault at a random site, at which it overflows."""
    rng = random.Random(seed)
    make = rng.choice(MODELS)
    for _ in range(20):
        torch.manual_seed(rng.randrange(1000))
        model = make(rng)
        fault, tokens = rng.choice(faults(model)), tokens_of(rng)
        inject(model, fault, rng)
        if overflows_there(model, fault.site, tokens):
            return model, fault, tokens
    raise AssertionError(f"no fault took in 20 attempts of seed {seed}")


@pytest.mark.slow
@pytest.mark.parametrize(
    "seeds", [range(12), pytest.param(range(12, 100), marks=pytest.mark.long)], ids=str
)
def test_the_producer_is_the_site_where_the_fault_is(seeds: range) -> None:
    wrong = {}
    for seed in seeds:
        model, fault, tokens = case(seed)
        producers = set(record(model, tokens)["producer"])
        if producers != {fault.site}:
            wrong[seed] = (fault, producers)
    assert not wrong


def test_a_fault_between_modules_is_said_to_be_there() -> None:
    """GPT-2's own attention multiplies q and k in a function, whose result is no site."""
    rng = random.Random(0)
    torch.manual_seed(0)
    model = gpt2(attn_implementation="eager")
    with torch.no_grad():
        weight = model.get_parameter("transformer.h.1.attn.c_attn.weight")
        weight *= 1e4 / weight.abs().max()
    tokens = tokens_of(rng)
    assert not overflows_there(model, "transformer.h.1.attn.c_attn", tokens)
    producers = set(record(model, tokens)["producer"])
    assert producers == {"transformer.h.1.attn (between its modules)"}


@pytest.mark.parametrize("sign", [1, -1])
def test_a_residual_sum_that_leaves_the_range_on_one_side(sign: int) -> None:
    """−inf alone, where no mask can be: two summands that fit FP16, and their sum does not."""
    shape = {"d_model": WIDTH, "n_layers": 2, "n_heads": 2, "d_ff": 32, "max_seq_len": LENGTH}
    model = build_model(model_config("pre-ln", "nano", **shape, vocab_size=VOCAB), seed=0).half()
    with torch.no_grad():
        for block in model.blocks:
            block.feed_forward.fc2.bias[3] = sign * 4e4
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    tokens = tokens_of(random.Random(0))
    with gradlab.attach(model, optimizer, probes=[Headroom()]) as probes:
        with gradlab.emulated_fp16():
            F.cross_entropy(model(tokens).float().flatten(0, 1), tokens.flatten()).backward()
        optimizer.step()
    first = probes.table("overflows").iloc[0]
    assert (first["site"], first["kind"]) == ("blocks.1.ffn_residual", "inf")
    assert first["producer"] == "blocks.1.ffn_residual"


def first_gradient(model: nn.Module, tokens: Tensor, scale: float) -> str | None:
    """The first gradient that plain hooks find not finite, in the order of the backward pass."""
    found: list[str] = []

    def look(name: str, gradient: Tensor) -> None:
        if not bool(gradient.isfinite().all()):
            found.append(name)

    def on_output(name: str, output: Any) -> None:
        output = output if isinstance(output, Tensor) else output[0]
        if output.requires_grad:
            output.register_hook(partial(look, name))

    handles = [
        module.register_forward_hook(lambda m, args, out, name=name: on_output(name, out))
        for name, module in model.named_modules()
        if name and not isinstance(module, nn.Dropout)
    ]
    handles += [
        p.register_post_accumulate_grad_hook(lambda p, name=n: look(name, p.grad))
        for n, p in model.named_parameters()
    ]
    with gradlab.emulated_fp16():
        (forward(model, tokens) * scale).backward()
    for handle in handles:
        handle.remove()
    model.zero_grad()
    return found[0] if found else None


@pytest.mark.parametrize("seed", range(8))
def test_too_large_a_loss_scale_names_the_gradient_that_overflows(seed: int) -> None:
    rng = random.Random(seed)
    torch.manual_seed(seed)
    model, tokens = MODELS[seed % len(MODELS)](rng), tokens_of(rng)
    scale = 2.0**12
    while (expected := first_gradient(model, tokens, scale)) is None:
        scale *= 2.0 ** rng.randint(1, 6)
    assert record(model, tokens, 1.0).empty
    model.zero_grad()
    events = record(model, tokens, scale)
    assert set(events["direction"]) == {"backward"}
    assert set(events["producer"]) == {f"{expected} gradient"}


class Masked(nn.Module):
    """Scores of earlier places, −inf at later ones, as a module's output."""

    def forward(self, scores: Tensor) -> Tensor:
        return scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -math.inf)


class MaskedScores(nn.Module):
    """The same by a module that projects, too."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mask = Masked()

    def forward(self, x: Tensor) -> Tensor:
        return self.mask(self.q(x) @ self.k(x).transpose(1, 2)) * 0.5


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scores = MaskedScores()
        self.v = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.scores(x).softmax(-1) @ self.v(x)


def test_masked_places_do_not_count() -> None:
    torch.manual_seed(0)
    model = Language(Attention())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with gradlab.attach(model, optimizer, probes=[Headroom()]) as probes:
        with gradlab.emulated_fp16():
            forward(model, tokens_of(random.Random(0))).backward()
        optimizer.step()
    assert probes.table("overflows").empty
    headroom = probes.table("headroom")
    masked = headroom[headroom["site"].isin(["body.scores", "body.scores.mask"])]
    assert set(masked["dtype"]) == {"float16"}
    assert (masked["headroom_bits"] > 5).all()
    assert (masked["nonfinite"] == 0).all()


@pytest.mark.parametrize("name", ["gpt2", "bert", "llama"])
def test_masks_of_the_least_number_do_not_count(name: str) -> None:
    """Added to a score it may be −inf in FP16: harmless, as the softmax of both is 0."""
    model = half_with_eager_attention(name)
    tokens = tokens_of(random.Random(0))
    padding = torch.ones_like(tokens)
    padding[0, -2:] = 0  # at the end: a row that is masked whole would be NaN in truth
    lowest: list[float] = []
    softmax = F.softmax

    def watched(scores: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        lowest.append(scores.min().item())
        return softmax(scores, *args, **kwargs)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with gradlab.attach(model, optimizer, probes=[Headroom()]) as probes:
        with gradlab.emulated_fp16(), pytest.MonkeyPatch.context() as patch:
            patch.setattr(F, "softmax", watched)
            logits = model(tokens, attention_mask=padding).logits
            logits.float().logsumexp(-1).mean().backward()
        optimizer.step()
    assert min(lowest) == -math.inf
    assert probes.table("overflows").empty


def half_with_eager_attention(name: str) -> nn.Module:
    """A Hugging Face model in FP16, with scores large enough to take the mask to −inf."""
    torch.manual_seed(0)
    model = {"gpt2": gpt2, "bert": bert, "llama": llama}[name](attn_implementation="eager")
    with torch.no_grad():
        for parameter, weight in model.named_parameters():
            if any(
                part in parameter for part in ("c_attn.weight", "query", "key", "q_proj", "k_proj")
            ):
                weight *= 20 / weight.abs().max().clamp(min=1e-3)
    return model.half()
