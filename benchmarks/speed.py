"""The training step beside Hugging Face's GPT-2 and torch's own encoder of the same shape.

    python -m benchmarks.speed
    python -m benchmarks.speed --size micro --threads 2 --compile
    python -m benchmarks.speed --device cuda --size 125M 355M --precision bf16 --length 1024

All train with fused AdamW on the same batch in one process and take turns, in another order every
turn. `ratio` is the median over turns of a contestant's time over Pre-LN's with fused attention in
the same turn. `share` is of the rate of a large product in that precision there, with the
operations that `gradlab sizes` counts. `MB` is what a step adds at most to the memory held between
steps; on a CPU what the forward pass keeps for the backward one, beside the weights. bf16 is
autocast's; gradlab's models keep LN, GELU and the residual stream in fp32. On a CPU that others use
too, `--clock cpu` with one thread.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.digits import processor
from benchmarks.turns import CLOCKS, take_turns
from gradlab import build_model, model_config
from gradlab.config import PrecisionConfig
from gradlab.models.config import ModelConfig
from gradlab.models.cost import flops_per_token
from gradlab.models.loss import token_loss
from gradlab.precision.precision import resolve

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

Step = Callable[[], object]


@dataclass(frozen=True)
class Contestant:
    """A model and its loss on the one batch."""

    model: nn.Module
    loss: Callable[[], Tensor]


class TorchEncoder(nn.Module):
    """`nn.TransformerEncoder` as a Pre-LN language model with tied embeddings."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d_model, length = config.d_model, config.max_seq_len
        self.tokens = nn.Embedding(config.vocab_size, d_model)
        self.positions = nn.Embedding(length, d_model)
        layer = nn.TransformerEncoderLayer(
            d_model,
            config.n_heads,
            config.d_ff,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.encoder = nn.TransformerEncoder(
            layer, config.n_layers, nn.LayerNorm(d_model), enable_nested_tensor=False
        )
        self.mask: Tensor
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(length))
        nn.init.normal_(self.tokens.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions.weight
        return F.linear(self.encoder(x, mask=self.mask, is_causal=True), self.tokens.weight)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cpu", help="where to train: cpu, or cuda")
    sizes = ["nano", "micro", "mini"]
    parser.add_argument("--size", nargs="+", default=sizes, metavar="NAME", help="of the models")
    parser.add_argument("--precision", nargs="+", choices=DTYPES, default=list(DTYPES), help="both")
    parser.add_argument("--batch-size", type=int, default=8, help="sequences")
    parser.add_argument("--length", type=int, help="tokens of a sequence; by default the size's")
    parser.add_argument("--compile", action="store_true", help="compile all models")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch on a CPU")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="which time is taken")
    parser.add_argument("--steps", type=int, default=20, help="timed steps of each contestant")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    where = f"{processor()}, {options.threads} threads, {options.clock} time"
    if device.type == "cuda":
        where = torch.cuda.get_device_name(device)
    print(f"torch {torch.__version__}, {where}{', compiled' if options.compile else ''}")
    for precision in options.precision:
        peak = product_rate(device, DTYPES[precision], options.clock)
        print(f"{precision}: a large product runs at {peak / 1e12:.3g} TFLOP/s")
        print(
            f"{'size':6}{'contestant':26}{'ms':>8}{'ratio':>8}{'tokens/s':>12}{'share':>8}{'MB':>8}"
        )
        for size in options.size:
            overrides = {"max_seq_len": options.length} if options.length else {}
            config = model_config("pre-ln", size, **overrides)
            compare(size, config, precision, options, device, peak)


def compare(
    size: str,
    config: ModelConfig,
    precision: str,
    options: argparse.Namespace,
    device: torch.device,
    peak: float,
) -> None:
    batch, length = options.batch_size, config.max_seq_len
    tokens = torch.randint(config.vocab_size, (batch, length + 1), device=device)

    def ours(arch: str, attention: str) -> Contestant:
        switches = model_config(arch, size, max_seq_len=length, attention=attention)
        how = resolve(PrecisionConfig.from_mapping({"name": precision}), device)
        model = build_model(switches, device=device, seed=0)
        if options.compile:
            model.compile()

        def loss() -> Tensor:
            with how.arithmetic():
                with how.autocast():
                    logits = model(tokens[:, :-1])
                return token_loss(logits, tokens[:, 1:])

        return Contestant(model, loss)

    def others(model: nn.Module, logits_of: Callable[[Any], Any] = lambda out: out) -> Contestant:
        model.to(device)
        if options.compile:
            model.compile()
        narrow = precision != "fp32"

        def loss() -> Tensor:
            with torch.autocast(device.type, torch.bfloat16, enabled=narrow):
                logits = logits_of(model(tokens[:, :-1]))
            return F.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())

        return Contestant(model, loss)

    contestants = {
        "pre-ln, fused": ours("pre-ln", "sdpa"),
        "pre-ln, materialised": ours("pre-ln", "materialised"),
        "normformer, fused": ours("normformer", "sdpa"),
        "nn.TransformerEncoder": others(TorchEncoder(config)),
    }
    try:
        for kind, name in (("sdpa", "GPT-2, fused"), ("eager", "GPT-2, eager attention")):
            contestants[name] = others(gpt2(config, kind), lambda out: out.logits)
    except ImportError:
        print("GPT-2: skipped, transformers is not installed: the extra `peers` has it")
    memory = {name: kept(one) if device.type == "cpu" else 0 for name, one in contestants.items()}

    def remembering(name: str, step: Step) -> Step:
        def watched() -> None:
            torch.cuda.reset_peak_memory_stats(device)
            held = torch.cuda.memory_allocated(device)
            step()
            memory[name] = torch.cuda.max_memory_allocated(device) - held

        return watched if device.type == "cuda" else step

    steps = {name: remembering(name, stepping(one)) for name, one in contestants.items()}
    seconds = take_turns(steps, options.steps, clock=options.clock, device=device)
    first = seconds["pre-ln, fused"]
    for name, taken in seconds.items():
        ratio = median(a / b for a, b in zip(taken, first, strict=True))
        rate = batch * length / median(taken)
        share = rate * flops_per_token(config) / peak
        print(
            f"{size:6}{name:26}{1000 * median(taken):8.1f}{ratio:8.3f}{rate:12,.0f}"
            f"{share:8.1%}{memory[name] / 1e6:8.1f}",
            flush=True,
        )


def gpt2(config: ModelConfig, attention: str) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    shape = GPT2Config(
        vocab_size=config.vocab_size,
        n_positions=config.max_seq_len,
        n_embd=config.d_model,
        n_layer=config.n_layers,
        n_head=config.n_heads,
        n_inner=config.d_ff,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=None,
        attn_implementation=attention,
    )
    model: nn.Module = GPT2LMHeadModel(shape)
    return model


def stepping(contestant: Contestant) -> Step:
    optimizer = torch.optim.AdamW(contestant.model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        contestant.loss().backward()
        optimizer.step()

    return step


def kept(contestant: Contestant) -> int:
    """Bytes that a forward pass keeps for the backward pass, the weights aside."""
    weights = {p.untyped_storage().data_ptr() for p in contestant.model.parameters()}
    found: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        memory = x.untyped_storage()
        found[memory.data_ptr()] = memory.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        loss = contestant.loss()  # noqa: F841  as long as it lives no address is used twice
    return sum(size for address, size in found.items() if address not in weights)


def product_rate(device: torch.device, dtype: torch.dtype, clock: str) -> float:
    """Operations a second of a large square product: the best of a few."""
    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    product: dict[str, Step] = {"product": lambda: a @ b}
    return 2 * size**3 / min(take_turns(product, 8, clock=clock, device=device)["product"])


if __name__ == "__main__":
    main()
