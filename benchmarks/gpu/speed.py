"""The training step beside Hugging Face's GPT-2 of the same shape: time, memory, share of the peak.

    python -m benchmarks.gpu.speed
    python -m benchmarks.gpu.speed --device cpu --tiny

All train in bf16 autocast with fused AdamW on the same batch and take turns; `share` is of the
rate of a large bf16 product on the same card, with the operations of `gradlab sizes`.
"""

import argparse
import math
import random
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch
from torch.nn import functional as F

from gradlab import build_model, model_config
from gradlab.config import PrecisionConfig
from gradlab.models.cost import flops_per_token
from gradlab.models.loss import next_token_loss
from gradlab.precision.precision import resolve

WARM_UP = 3
Step = Callable[[], None]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda", help="where to train")
    parser.add_argument("--size", nargs="+", default=["125M", "355M"], metavar="NAME", help="sizes")
    parser.add_argument("--steps", type=int, default=8, help="timed steps of each contestant")
    parser.add_argument("--batch-size", type=int, default=8, help="sequences of 1,024 tokens")
    parser.add_argument("--tiny", action="store_true", help="nano, one step")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    device = torch.device(options.device)
    peak = product_rate(device, 256 if options.tiny else 8192)
    print(f"torch {torch.__version__}, {device}: bf16 product {peak / 1e12:.1f} TFLOP/s")
    print(f"{'size':6}{'contestant':26}{'ms':>8}{'ratio':>8}{'tokens/s':>12}{'share':>8}{'GB':>7}")
    for size in ["nano"] if options.tiny else options.size:
        length = 16 if options.tiny else 1024
        batch = 2 if options.tiny else options.batch_size
        compare(size, batch, length, 1 if options.tiny else options.steps, device, peak)


def compare(
    size: str, batch: int, length: int, steps: int, device: torch.device, peak: float
) -> None:
    config = model_config("pre-ln", size, max_seq_len=length)
    tokens = torch.randint(config.vocab_size, (batch, length + 1), device=device)
    contestants: dict[str, Step] = {
        "pre-ln, sdpa": ours("pre-ln", size, "sdpa", tokens),
        "pre-ln, materialised": ours("pre-ln", size, "materialised", tokens),
        "normformer, sdpa": ours("normformer", size, "sdpa", tokens),
    }
    try:
        contestants["GPT-2, sdpa"] = hugging_face(config, "sdpa", tokens)
        contestants["GPT-2, eager attention"] = hugging_face(config, "eager", tokens)
    except ImportError:
        print("GPT-2: skipped, transformers is not installed")
    seconds, memory = measure(contestants, steps, device)
    base = median(seconds["pre-ln, sdpa"])
    for name, taken in seconds.items():
        rate = batch * length / median(taken)
        share = rate * flops_per_token(config) / peak
        print(
            f"{size:6}{name:26}{1000 * median(taken):8.1f}{median(taken) / base:8.3f}{rate:12,.0f}"
            f"{share:8.1%}{memory[name] / 1e9:7.1f}",
            flush=True,
        )


def ours(arch: str, size: str, attention: str, tokens: torch.Tensor) -> Step:
    config = model_config(arch, size, max_seq_len=tokens.shape[1] - 1, attention=attention)
    model = build_model(config, device=tokens.device, seed=0)
    precision = resolve(PrecisionConfig(name="bf16"), tokens.device)

    def loss() -> torch.Tensor:
        with precision.arithmetic():
            with precision.autocast():
                logits = model(tokens[:, :-1])
            return next_token_loss(logits, tokens[:, 1:])

    return stepping(model, loss)


def hugging_face(config: Any, attention: str, tokens: torch.Tensor) -> Step:
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
        attn_implementation=attention,
    )
    model = GPT2LMHeadModel(shape).to(tokens.device)

    def loss() -> torch.Tensor:
        with torch.autocast(tokens.device.type, torch.bfloat16):
            logits = model(tokens[:, :-1]).logits
        return F.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())

    return stepping(model, loss)


def stepping(model: torch.nn.Module, loss: Callable[[], torch.Tensor]) -> Step:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step


def measure(
    contestants: dict[str, Step], steps: int, device: torch.device
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Seconds of each contestant's steps, and the bytes that a step adds at most."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    memory = dict.fromkeys(contestants, 0)
    on_cuda = device.type == "cuda"
    shuffle = random.Random(0)
    for _ in range(WARM_UP + steps):
        for name in shuffle.sample(list(contestants), len(contestants)):
            if on_cuda:
                torch.cuda.synchronize(device)
                torch.cuda.reset_peak_memory_stats(device)
                held = torch.cuda.memory_allocated(device)
            began = time.perf_counter()
            contestants[name]()
            if on_cuda:
                torch.cuda.synchronize(device)
                memory[name] = torch.cuda.max_memory_allocated(device) - held
            seconds[name].append(time.perf_counter() - began)
    return {name: taken[WARM_UP:] for name, taken in seconds.items()}, memory


def product_rate(device: torch.device, size: int) -> float:
    """Operations a second of a square bf16 product: the median of a few."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    best = math.inf
    for _ in range(8):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        began = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


if __name__ == "__main__":
    main()
