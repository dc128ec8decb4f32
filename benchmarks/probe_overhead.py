"""What probes cost a training step, and how right their norms are, beside other tools.

    pip install --editable '.[peers]'
    python benchmarks/probe_overhead.py

Each contestant trains a copy of the same 13.9M GPT-2-style model, 1,024 tokens a step, fp32, fused
AdamW. They take turns in one process, in another order every turn. `ratio` is the median over turns
of a contestant's time over the bare step's in the same turn, with its 95 % interval; `total` is all
of its time over all of the bare step's, with what it does only now and then. gradlab, wandb,
DebugUnderflowOverflow and trainscope do different amounts of work: all are in their default
configuration, at every step. `extra` is the median difference in time; at `--width 12` the step is
mostly fixed costs, and so is what a contestant adds to it.

The errors are of the norm that a tool reports for each parameter, against float64, the largest one:
on this model at its last step, and on a normal gradient of the size of an embedding, 51200 × 768.
wandb and DebugUnderflowOverflow report none.

With `--compile` all models are compiled once the tools are attached, and the bare step is that of a
compiled model: `--compile --only Headroom`.

Times are of the wall clock, which on two threads needs two idle cores: where something else runs,
each operation waits for a thread that it has displaced. There, `--threads 1 --clock cpu`.
"""

import argparse
import logging
import math
import os
import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW, Optimizer

import gradlab
from gradlab.probes import GradientNorms, Headroom, Probe

WIDTH, N_HEADS, N_LAYERS, VOCAB, BATCH, LENGTH = 384, 6, 6, 8192, 8, 128
ROWS, COLUMNS = 51200, 768  # of an embedding
WARM_UP = 3
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}

Norms = Mapping[str, float]
"""Of each parameter by name."""


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, d_model = x.shape
        qkv = self.qkv(self.ln_1(x)).view(batch, length, 3, N_HEADS, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv
        heads = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(heads.transpose(1, 2).reshape(batch, length, d_model))
        return x + self.fc2(F.gelu(self.fc1(self.ln_2(x))))


class PlainGPT(nn.Module):
    """GPT-2 with tied embeddings, as one would write it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCAB, width), nn.Embedding(LENGTH, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(N_LAYERS))
        self.ln_f = nn.LayerNorm(width)
        nn.init.normal_(self.tokens.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return F.linear(self.ln_f(x), self.tokens.weight)


class NormalGradient(nn.Module):
    """Its output's gradient in its weight is a normal tensor of an embedding's size."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(rows, COLUMNS))
        self.gradient: Tensor
        self.register_buffer("gradient", torch.randn(rows, COLUMNS))

    def forward(self) -> Tensor:
        return (self.weight * self.gradient).sum()


class Instrument:
    """Nothing attached: the bare step. The others override what they need."""

    norm = ""
    """The kind that `finish` returns: L1, L2 or none."""

    def __init__(self, model: nn.Module, optimizer: Optimizer, folder: Path) -> None:
        self.model, self.optimizer, self.folder = model, optimizer, folder

    def before_step(self, loss: Tensor) -> None:
        """Between the backward pass and the optimizer's step."""

    def finish(self) -> Norms:
        """Detach; the norms of the last step, if any were taken."""
        return {}


class ItemLoop(Instrument):
    norm = "L1"

    def before_step(self, loss: Tensor) -> None:
        self.last = {
            name: parameter.grad.abs().sum().item()
            for name, parameter in self.model.named_parameters()
            if parameter.grad is not None
        }

    def finish(self) -> Norms:
        return self.last


class ForeachNorm(Instrument):
    norm = "L1"

    def before_step(self, loss: Tensor) -> None:
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        self.last = torch.stack(torch._foreach_norm(gradients, 1))

    def finish(self) -> Norms:
        names = (name for name, p in self.model.named_parameters() if p.grad is not None)
        return dict(zip(names, self.last.tolist(), strict=True))


class Gradlab(Instrument):
    norm = "L1"

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        folder: Path,
        *,
        probes: Callable[[], list[Probe]] | None = None,
        every: int = 1,
    ) -> None:
        super().__init__(model, optimizer, folder)
        chosen = probes() if probes else None
        self.probes = gradlab.attach(model, optimizer, probes=chosen, every=every)

    def finish(self) -> Norms:
        table, last = self.probes.table("grad_norms"), self.probes.table("steps")["step"].max()
        self.probes.close()
        rows = table[table["step"] == last]
        return dict(zip(rows["param"], rows["grad_l1"], strict=True))


class WandbWatch(Instrument):
    def __init__(self, model: nn.Module, optimizer: Optimizer, folder: Path) -> None:
        super().__init__(model, optimizer, folder)
        os.environ["WANDB_SILENT"] = "true"
        import wandb

        self.run = wandb.init(mode="offline", dir=folder, project="probe-overhead")
        self.run.watch(model, log="gradients", log_freq=1)

    def before_step(self, loss: Tensor) -> None:
        self.run.log({"loss": loss.item()})

    def finish(self) -> Norms:
        self.run.unwatch(self.model)
        self.run.finish()
        return {}


class UnderflowOverflow(Instrument):
    def __init__(self, model: nn.Module, optimizer: Optimizer, folder: Path) -> None:
        super().__init__(model, optimizer, folder)
        from transformers.debug_utils import DebugUnderflowOverflow

        self.debug = DebugUnderflowOverflow(model)


class Trainscope(Instrument):
    norm = "L2"

    def __init__(self, model: nn.Module, optimizer: Optimizer, folder: Path) -> None:
        super().__init__(model, optimizer, folder)
        from trainscope import TrainScope, TrainScopeConfig

        logging.getLogger("trainscope").setLevel(logging.ERROR)
        # It would send its numbers to the W&B run of the contestant beside it.
        config = TrainScopeConfig(
            run_dir=str(folder), run_name="run", integrations={"wandb": False}
        )
        self.scope = TrainScope(model, optimizer, config=config).attach()

    def before_step(self, loss: Tensor) -> None:
        self.scope.step(loss.item())

    def finish(self) -> Norms:
        self.scope.detach()
        norms = {}
        for file in (self.folder / "run" / "layers").glob("*.arrow"):
            rows = pa.ipc.open_stream(file.read_bytes()).read_all()
            norms[file.stem] = rows["grad_l2_norm"][-1].as_py()
        return norms


def norms_only() -> list[Probe]:
    return [GradientNorms()]


def norms_and_headroom() -> list[Probe]:
    return [GradientNorms(), Headroom()]


CONTESTANTS: dict[str, Callable[[nn.Module, Optimizer, Path], Instrument]] = {
    "bare step": Instrument,
    "gradlab, GradientNorms": partial(Gradlab, probes=norms_only),
    "gradlab, with Headroom": partial(Gradlab, probes=norms_and_headroom),
    "gradlab, default probes": Gradlab,
    "gradlab, off cadence": partial(Gradlab, probes=norms_and_headroom, every=10**9),
    ".item() of each L1": ItemLoop,
    "torch._foreach_norm, L1": ForeachNorm,
    "wandb.watch, offline": WandbWatch,
    "DebugUnderflowOverflow": UnderflowOverflow,
    "trainscope": Trainscope,
}


@dataclass(frozen=True)
class Training:
    """A model, how its loss is computed, and what watches it."""

    model: nn.Module
    loss: Callable[[], Tensor]
    optimizer: Optimizer
    instrument: Instrument

    def step(self) -> None:
        self.optimizer.zero_grad()
        loss = self.loss()
        loss.backward()
        self.instrument.before_step(loss)
        self.optimizer.step()

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


def on_model(name: str, width: int, folder: Path) -> Training:
    torch.manual_seed(0)
    model = PlainGPT(width)
    batch = torch.randint(VOCAB, (BATCH, LENGTH + 1))

    def loss() -> Tensor:
        return F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())

    return training(name, model, loss, folder / "model")


def on_embedding(name: str, rows: int, folder: Path) -> Training:
    torch.manual_seed(0)
    model = NormalGradient(rows)
    return training(name, model, model, folder / "embedding")


def training(name: str, model: nn.Module, loss: Callable[[], Tensor], folder: Path) -> Training:
    optimizer = AdamW(model.parameters(), lr=1e-4, fused=True)
    place = folder / str(list(CONTESTANTS).index(name))
    place.mkdir(parents=True)
    return Training(model, loss, optimizer, CONTESTANTS[name](model, optimizer, place))


def set_up(names: list[str], width: int, folder: Path, compiled: bool) -> dict[str, Training]:
    """The contestants whose packages are there."""
    contestants = {}
    for name in names:
        try:
            contestants[name] = on_model(name, width, folder)
            if compiled:
                contestants[name].model.compile()
        except ImportError as error:
            print(f"{name}: skipped, {error.name} is not installed: the extra `peers` has it")
    return contestants


def measure(
    contestants: dict[str, Training], steps: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Seconds of each contestant's step at each turn, after some that are not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    shuffle = random.Random(0)
    for _ in range(WARM_UP + steps):
        for name in shuffle.sample(list(contestants), len(contestants)):
            began = clock()
            contestants[name].step()
            seconds[name].append(clock() - began)
    return {name: times[WARM_UP:] for name, times in seconds.items()}


def median_interval(values: list[float]) -> tuple[float, float, float]:
    """The median and its 95 % interval, from the binomial law of how many values lie below it."""
    ordered, n = sorted(values), len(values)
    at = max(0, math.floor(n / 2 - 0.98 * math.sqrt(n)))
    return median(ordered), ordered[at], ordered[n - 1 - at]


def seconds_to_read(width: int) -> float:
    """Of one `torch.aminmax` of every output and gradient there: the least headroom can cost."""
    widths = [width, 3 * width, width, width, 4 * width, width, width] * N_LAYERS + [width] * 2
    sites = [torch.randn(BATCH * LENGTH, each) for each in 2 * widths]
    times = []
    for _ in range(5):
        began = time.perf_counter()
        for site in sites:
            torch.aminmax(site)
        times.append(time.perf_counter() - began)
    return median(times)


def error_on_embedding(name: str, rows: int, folder: Path) -> float | None:
    one = on_embedding(name, rows, folder)
    one.step()
    return one.finish()


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=60, help="timed steps of each contestant")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="which time is taken")
    parser.add_argument("--width", type=int, default=WIDTH, help="of the model, a multiple of 6")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="names with a WORD")
    parser.add_argument("--compile", action="store_true", help="compile all models")
    parser.add_argument("--rows", type=int, default=ROWS, help="of the embedding")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    if options.compile:  # else a model with hooks may take the graph of one without
        torch._dynamo.config.skip_nnmodule_hook_guards = False
    names = [
        name
        for name in CONTESTANTS
        if name == "bare step" or not options.only or any(word in name for word in options.only)
    ]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        contestants = set_up(names, options.width, folder, options.compile)
        seconds = measure(contestants, options.steps, CLOCKS[options.clock])
        bare = seconds["bare step"]
        size = sum(p.numel() for p in contestants["bare step"].model.parameters()) / 1e6
        print(
            f"torch {torch.__version__}, {size:.1f}M parameters, {BATCH * LENGTH} tokens, "
            f"{options.threads} threads, {'compiled ' if options.compile else ''}bare step "
            f"{1000 * median(bare):.1f} ms ({options.clock}), {options.steps} steps\n"
            f"{'':26}{'ratio':>7}{'(95 %)':^18}{'total':>7}{'extra':>10}   norm{'error':>10}"
            f"{'embedding':>12}"
        )
        read = 1000 * seconds_to_read(options.width)
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
                far = error_on_embedding(name, options.rows, folder)
                line += f"   {one.instrument.norm:4}{error:10.1e}{far:12.1e}"
            print(line, flush=True)


if __name__ == "__main__":
    main()
