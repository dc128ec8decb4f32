"""What probes cost a training step, and how right their norms are, beside other tools.

    pip install --editable '.[peers]'
    python -m benchmarks.probe_overhead

Each contestant trains a copy of the same GPT-2-style model with fused AdamW, by default one of
13.9M parameters on 1,024 tokens a step, fp32. They take turns in one process, in another order
every turn. `ratio` is the median over turns of a contestant's time over the bare step's in the same
turn, with its 95 % interval; `total` is all of its time over all of the bare step's, with what it
does only now and then. gradlab, wandb, DebugUnderflowOverflow and trainscope do different amounts
of work: all are in their default configuration, at every step. `extra` is the median difference in
time; at `--width 12` the step is mostly fixed costs, and so is what a contestant adds to it, and
with `--model chain`, 1,000 linear maps of 8 × 8 one after another, all of it is.

The errors are of the norm that a tool reports for each parameter, against float64, the largest one:
on this model at its last step, and on a normal gradient of the size of an embedding, 51200 × 768.
wandb and DebugUnderflowOverflow report none.

With `--compile` all models are compiled once the tools are attached, and the bare step is that of a
compiled model: `--compile --only Headroom`.

On a GPU, as with `--model 125M --device cuda --precision bf16`, a step's time ends when the device
is done. With few tokens it waits for Python's next call; `--batch 32` shows what is left where it
does not. On a CPU times are of the wall clock, which on two threads needs two idle cores: where
something else runs, each operation waits for a thread that it has displaced. There, `--threads 1
--clock cpu`.
"""

import argparse
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn import functional as F
from torch.optim import AdamW, Optimizer

from benchmarks.instruments import CONTESTANTS
from benchmarks.turns import CLOCKS, take_turns

ROWS, COLUMNS = 51200, 768  # of an embedding


@dataclass(frozen=True)
class Shape:
    """Of a model and its batches; without a vocabulary, of a chain of linear maps."""

    width: int
    n_heads: int
    n_layers: int
    vocab: int
    batch: int
    length: int


SHAPES = {
    "14M": Shape(width=384, n_heads=6, n_layers=6, vocab=8192, batch=8, length=128),
    "chain": Shape(width=8, n_heads=1, n_layers=1000, vocab=0, batch=8, length=1),
    "125M": Shape(width=768, n_heads=12, n_layers=12, vocab=51200, batch=8, length=1024),
}
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Block(nn.Module):
    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, d_model = x.shape
        qkv = self.qkv(self.ln_1(x)).view(batch, length, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv
        heads = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(heads.transpose(1, 2).reshape(batch, length, d_model))
        return x + self.fc2(F.gelu(self.fc1(self.ln_2(x))))


class PlainGPT(nn.Module):
    """GPT-2 with tied embeddings, as one would write it."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width = shape.width
        self.tokens = nn.Embedding(shape.vocab, width)
        self.positions = nn.Embedding(shape.length, width)
        self.blocks = nn.ModuleList(Block(width, shape.n_heads) for _ in range(shape.n_layers))
        self.ln_f = nn.LayerNorm(width)
        nn.init.normal_(self.tokens.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return F.linear(self.ln_f(x), self.tokens.weight)


class Chain(nn.Sequential):
    """Linear maps one after another, rotations at first: nothing grows or vanishes on the way."""

    def __init__(self, shape: Shape) -> None:
        layers = [nn.Linear(shape.width, shape.width) for _ in range(shape.n_layers)]
        super().__init__(*layers)
        for layer in layers:
            nn.init.orthogonal_(layer.weight)


class NormalGradient(nn.Module):
    """Its output's gradient in its weight is a normal tensor of an embedding's size."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(rows, COLUMNS))
        self.gradient: Tensor
        self.register_buffer("gradient", torch.randn(rows, COLUMNS))

    def forward(self) -> Tensor:
        return (self.weight * self.gradient).sum()


class Training:
    """A model, how its loss is computed, and what watches it."""

    def __init__(
        self, model: nn.Module, loss: Callable[[], Tensor], name: str, folder: Path, fp16: bool
    ) -> None:
        self.model, self.loss = model, loss
        self.optimizer: Optimizer = AdamW(model.parameters(), lr=1e-4, fused=True)
        kind = next(model.parameters()).device.type
        self.scaler = GradScaler(kind) if fp16 else None
        place = folder / str(list(CONTESTANTS).index(name))
        place.mkdir(parents=True)
        self.instrument = CONTESTANTS[name](self, place)

    def step(self) -> None:
        self.optimizer.zero_grad()
        loss = self.loss()
        if self.scaler is None:
            loss.backward()
            self.instrument.before_step(loss)
            self.optimizer.step()
            return
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        self.instrument.before_step(loss)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def finish(self) -> float | None:
        """Largest relative error of the norms of the last step; None if there are none."""
        norms = self.instrument.finish()
        order = {"L1": 1, "L2": 2}.get(self.instrument.norm)
        errors = []
        for name, parameter in self.model.named_parameters():
            if name in norms and parameter.grad is not None and order:
                gradient = parameter.grad.double().flatten()
                true = (gradient.abs().sum() if order == 1 else (gradient @ gradient).sqrt()).item()
                errors.append(abs(norms[name] / true - 1))
        return max(errors, default=None)


@dataclass(frozen=True)
class Setting:
    """What all contestants have alike."""

    shape: Shape
    device: torch.device
    precision: str
    compiled: bool
    folder: Path


def on_model(name: str, setting: Setting) -> Training:
    shape, device = setting.shape, setting.device
    torch.manual_seed(0)
    with device:  # a GPU draws all values at once, where a CPU takes seconds a model
        model = PlainGPT(shape) if shape.vocab else Chain(shape)
        tokens = torch.randint(shape.vocab or 1, (shape.batch, shape.length + 1))
    numbers = torch.randn(shape.batch, shape.width, device=device)
    dtype = AUTOCAST.get(setting.precision)

    def loss() -> Tensor:
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            output: Tensor = model(tokens[:, :-1] if shape.vocab else numbers)
        if not shape.vocab:
            return output.float().square().mean()
        return F.cross_entropy(output.flatten(0, 1).float(), tokens[:, 1:].flatten())

    return Training(model, loss, name, setting.folder / "model", setting.precision == "fp16")


def on_embedding(name: str, rows: int, setting: Setting) -> Training:
    torch.manual_seed(0)
    model = NormalGradient(rows).to(setting.device)
    return Training(model, model, name, setting.folder / "embedding", False)


def set_up(names: list[str], setting: Setting) -> dict[str, Training]:
    """The contestants whose packages are there."""
    contestants = {}
    for name in names:
        try:
            contestants[name] = on_model(name, setting)
            if setting.compiled:
                contestants[name].model.compile()
        except ImportError as error:
            print(f"{name}: skipped, {error.name} is not installed: the extra `peers` has it")
    return contestants


def median_interval(values: list[float]) -> tuple[float, float, float]:
    """The median and its 95 % interval, from the binomial law of how many values lie below it."""
    ordered, n = sorted(values), len(values)
    at = max(0, math.floor(n / 2 - 0.98 * math.sqrt(n)))
    return median(ordered), ordered[at], ordered[n - 1 - at]


def seconds_to_read(setting: Setting) -> float:
    """Of one `torch.aminmax` of every output and gradient there: the least headroom can cost."""
    shape, width = setting.shape, setting.shape.width
    block = [width, 3 * width, width, width, 4 * width, width, width]
    widths = [*block * shape.n_layers, width, width] if shape.vocab else [width] * shape.n_layers
    tokens, dtype = shape.batch * shape.length, AUTOCAST.get(setting.precision)
    sites = [torch.randn(tokens, each, device=setting.device, dtype=dtype) for each in 2 * widths]
    read = {"read": lambda: [torch.aminmax(site) for site in sites]}
    return median(take_turns(read, 5, clock="wall", device=setting.device)["read"])


def error_on_embedding(name: str, rows: int, setting: Setting) -> float | None:
    one = on_embedding(name, rows, setting)
    one.step()
    return one.finish()


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=60, help="timed steps of each contestant")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="which time is taken")
    parser.add_argument("--model", choices=SHAPES, default="14M", help="chain, or a GPT")
    parser.add_argument("--width", type=int, help="of the model, a multiple of its heads")
    parser.add_argument("--batch", type=int, help="sequences of a step: many keep a GPU busy")
    parser.add_argument("--device", default="cpu", help="where to train: cpu, or cuda")
    parser.add_argument("--precision", choices=["fp32", *AUTOCAST], default="fp32", help="autocast")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="names with a WORD")
    parser.add_argument("--compile", action="store_true", help="compile all models")
    parser.add_argument("--rows", type=int, default=ROWS, help="of the embedding")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    if options.compile:  # else a model with hooks may take the graph of one without
        torch._dynamo.config.skip_nnmodule_hook_guards = False
    shape = SHAPES[options.model]
    shape = replace(shape, width=options.width or shape.width, batch=options.batch or shape.batch)
    names = [
        name
        for name in CONTESTANTS
        if name == "bare step" or not options.only or any(word in name for word in options.only)
    ]
    with tempfile.TemporaryDirectory() as temporary:
        setting = Setting(
            shape,
            torch.device(options.device),
            options.precision,
            options.compile,
            Path(temporary),
        )
        contestants = set_up(names, setting)
        steps = {name: one.step for name, one in contestants.items()}
        seconds = take_turns(steps, options.steps, clock=options.clock, device=setting.device)
        bare = seconds["bare step"]
        size = sum(p.numel() for p in contestants["bare step"].model.parameters()) / 1e6
        where = f"{options.threads} threads"
        if setting.device.type == "cuda":
            where = torch.cuda.get_device_name(setting.device)
        print(
            f"torch {torch.__version__}, {where}, {size:.1f}M parameters, "
            f"{shape.batch * shape.length} tokens, {options.precision}, "
            f"{'compiled ' if options.compile else ''}bare step "
            f"{1000 * median(bare):.1f} ms ({options.clock}), {options.steps} steps\n"
            f"{'':26}{'ratio':>7}{'(95 %)':^18}{'total':>7}{'extra':>10}   norm{'error':>10}"
            f"{'embedding':>12}"
        )
        read = 1000 * seconds_to_read(setting)
        print(f"torch.aminmax of every output and its gradient alone: {read:.1f} ms", flush=True)
        for name, one in contestants.items():
            pairs = list(zip(seconds[name], bare, strict=True))
            ratio, low, high = median_interval([taken / base for taken, base in pairs])
            extra = 1000 * median(taken - base for taken, base in pairs)
            total = sum(seconds[name]) / sum(bare)
            error = one.finish()
            interval = f"({low:.3f} to {high:.3f})"
            line = f"{name:26}{ratio:7.3f}{interval:^18}{total:7.3f}{extra:7.2f} ms"
            if error is not None:
                far = error_on_embedding(name, options.rows, setting)
                line += f"   {one.instrument.norm:4}{error:10.1e}{far:12.1e}"
            print(line, flush=True)


if __name__ == "__main__":
    main()
