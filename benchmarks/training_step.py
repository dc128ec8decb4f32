"""What gradlab's training costs over the same model and step written plainly in PyTorch.

    python benchmarks/training_step.py --steps 100

Six contestants start at the same weights and take turns on the same batches, on one thread:

    plain   the model and the step below
    model   gradlab's model, the step below
    step    gradlab's model and `training_step`
    loop    that, and what the built-in loop does around it without probes
    study   the same with the probe of `gradlab run-stability`, headroom: rows at every tenth step,
            events exact at every one
    skipped the same, where steps between are looked at only if a gradient was not finite

A ratio is the median, over stretches of ten steps, of two contestants' processor time. `model` is
over `plain`: what it costs that each operation is a module which a hook can reach. `step`, `loop`,
`study` and `skipped` are over `model`, and `all` is `loop` over `plain`. FP16 products are emulated
in each. The plain step has no gradient norm, gradlab's always has.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradlab.config import Events, PrecisionConfig, RecordConfig, RunConfig, ScheduleConfig
from gradlab.data.batches import Batch, train_batch
from gradlab.data.corpus import load_corpus
from gradlab.data.entropy import unigram_entropy
from gradlab.models.positions import sinusoidal_table
from gradlab.models.presets import model_config
from gradlab.precision.precision import resolve
from gradlab.probes.engine.follower import LoopFollower
from gradlab.probes.engine.recorder import Recorder
from gradlab.probes.headroom.probe import Headroom
from gradlab.probes.probe import Probe
from gradlab.runs.memory import MemoryWriter
from gradlab.training.judged_run import JudgedRun
from gradlab.training.stability import StabilityMonitor
from gradlab.training.step import Learner, make_learner, training_step

LR = 1e-3
WARM_UP = 5
EVERY = RecordConfig().every
Step = Callable[[Batch], Tensor]
"""Trains on a batch and gives its loss."""


class PlainAttention(nn.Module):
    def __init__(self, d_model: int, n_heads: int, max_seq_len: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.q, self.k, self.v, self.out = (nn.Linear(d_model, d_model) for _ in range(4))
        later = torch.ones(max_seq_len, max_seq_len, dtype=torch.bool).triu(1)
        self.later: Tensor
        self.register_buffer("later", later, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, d_model = x.shape
        q, k, v = (
            project(x).view(batch, length, self.n_heads, -1).transpose(1, 2)
            for project in (self.q, self.k, self.v)
        )
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        scores = scores.masked_fill(self.later[:length, :length], -torch.inf)
        heads = F.softmax(scores, dim=-1, dtype=torch.float32) @ v
        return self.out(heads.transpose(1, 2).reshape(batch, length, d_model))


class PlainBlock(nn.Module):
    def __init__(self, d_model: int, n_heads: int, d_ff: int, max_seq_len: int) -> None:
        super().__init__()
        self.attn_norm = nn.LayerNorm(d_model)
        self.attention = PlainAttention(d_model, n_heads, max_seq_len)
        self.ffn_norm = nn.LayerNorm(d_model)
        self.feed_forward = nn.ModuleDict(
            {"fc1": nn.Linear(d_model, d_ff), "fc2": nn.Linear(d_ff, d_model)}
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attn_norm(x))
        hidden = F.gelu(self.feed_forward["fc1"](self.ffn_norm(x)).float())
        return x + self.feed_forward["fc2"](hidden)


class PlainTransformer(nn.Module):
    """Pre-LN and nothing else, as one would write it for one use; gradlab's parameter names."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__()
        m = config.model
        self.embed = nn.Embedding(m.vocab_size, m.d_model)
        table = sinusoidal_table(m.max_seq_len, m.d_model).float()
        self.table: Tensor
        self.register_buffer("table", table, persistent=False)
        self.blocks = nn.ModuleList(
            PlainBlock(m.d_model, m.n_heads, m.d_ff, m.max_seq_len) for _ in range(m.n_layers)
        )
        self.final_norm = nn.LayerNorm(m.d_model)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed.embedding_dim**0.5 * self.embed(tokens) + self.table[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return F.linear(self.final_norm(x), self.embed.weight)


def plain_step(model: nn.Module, config: RunConfig) -> Step:
    o = config.optimizer
    optimizer = torch.optim.AdamW(
        model.parameters(), LR, (o.beta1, o.beta2), o.eps, o.weight_decay, fused=True
    )
    scaler = torch.amp.GradScaler("cpu")

    def fp32(batch: Batch) -> Tensor:
        inputs, targets = batch
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        loss.backward()
        optimizer.step()
        return loss.detach()

    def fp16(batch: Batch) -> Tensor:
        inputs, targets = batch
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            logits = model(inputs)
        loss = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss.detach()

    return fp32 if config.precision.name == "fp32" else fp16


def contestants(config: RunConfig, entropy: float) -> dict[str, Step]:
    device = torch.device("cpu")
    hooked, stepping, looping, studying, skipping = (make_learner(config, device) for _ in range(5))
    plain = PlainTransformer(config)
    plain.load_state_dict(hooked.model.state_dict())

    def step(batch: Batch) -> Tensor:
        return training_step(stepping, [batch], LR).loss

    def recorded(learner: Learner, probes: Sequence[Probe], events: Events = "exact") -> Step:
        every = config.record.every
        follower = LoopFollower(
            learner.subject, probes, every=every, events=events, scaler=learner.scaler
        )
        monitor = StabilityMonitor(config.stability, entropy)
        judged = JudgedRun(config, follower, Recorder(MemoryWriter(config).write), monitor)

        def step(batch: Batch) -> Tensor:
            result = training_step(learner, [batch], LR, note=judged.note)
            judged.look()
            if judged.recorder.unwritten >= config.record.window:
                judged.recorder.flush()
            return result.loss

        return step

    return {
        "plain": plain_step(plain, config),
        "model": plain_step(hooked.model, config),
        "step": step,
        "loop": recorded(looping, ()),
        "study": recorded(studying, (Headroom(),)),
        "skipped": recorded(skipping, (Headroom(),), "skipped"),
    }


def measure(size: str, precision: str, steps: int) -> dict[str, list[float]]:
    """Processor seconds of each contestant at each step."""
    config = RunConfig(
        arch="pre-ln",
        size=size,
        model=model_config("pre-ln", size),
        schedule=ScheduleConfig(lr=LR),
        steps=WARM_UP + steps,
        precision=PrecisionConfig.from_mapping({"name": precision}),
        record=RecordConfig(probes=()),
    )
    length = config.model.max_seq_len
    tokens = load_corpus(config.data, seq_len=length).train
    runners = contestants(config, unigram_entropy(tokens))
    arithmetic = resolve(config.precision, torch.device("cpu")).arithmetic
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    shuffle = random.Random(0)
    for step in range(config.steps):
        batch = train_batch(tokens, seed=0, step=step, batch_size=config.batch_size, seq_len=length)
        losses = {}
        for name in shuffle.sample(list(runners), len(runners)):
            with arithmetic():  # a loop opens it once, which takes a millisecond
                began = time.process_time()
                losses[name] = runners[name](batch)
                seconds[name].append(time.process_time() - began)
        if step < WARM_UP:
            for name in runners:
                torch.testing.assert_close(losses[name], losses["plain"], rtol=1e-3, atol=0.0)
    return {name: values[WARM_UP:] for name, values in seconds.items()}


def ratio(seconds: dict[str, list[float]], over: str, under: str) -> float:
    """The median over stretches of `EVERY` steps: each has one of the cadence."""
    stretches = range(0, len(seconds[over]), EVERY)
    return statistics.median(
        sum(seconds[over][first : first + EVERY]) / sum(seconds[under][first : first + EVERY])
        for first in stretches
    )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", nargs="+", default=["nano", "micro"], metavar="NAME")
    parser.add_argument("--precision", nargs="+", default=["fp32", "fp16"], metavar="NAME")
    parser.add_argument("--steps", type=int, default=100, help="timed steps of each contestant")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(1)
    columns = (f"{name:>8}" for name in ("model", "step", "loop", "study", "skipped", "all"))
    print("size   precision  plain step", *columns)
    for size in options.size:
        for precision in options.precision:
            seconds = measure(size, precision, options.steps)
            milliseconds = 1000 * statistics.median(seconds["plain"])
            over_model = [ratio(seconds, name, "model") for name in list(seconds)[2:]]
            ratios = [
                ratio(seconds, "model", "plain"),
                *over_model,
                ratio(seconds, "loop", "plain"),
            ]
            print(
                f"{size:6} {precision:9} {milliseconds:8.1f} ms",
                *(f"{value:8.3f}" for value in ratios),
                flush=True,
            )


if __name__ == "__main__":
    main()
