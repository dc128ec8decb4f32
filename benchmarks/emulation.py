"""What emulating FP16 costs: a training step in each FP16 mode over the same step in fp32.

    python -m benchmarks.emulation
    python -m benchmarks.emulation --size micro --compile

The steps of the modes are interleaved in one process on one thread, so that what else the machine
does falls on all of them alike; a ratio is the median over turns of processor time.

The arithmetic is that of the fp32 step, so what is added is conversion. At `micro`, batch 8, a step
has 17 GFLOP of products. For these the emulation widens 100 million numbers and rounds 48 million,
6 bytes each: 16 ms at the 0.12 and 0.08 ns a number that a core needs inside its L2 cache, 4 % of
the step. The model's own casts (operands to fp16, scores and activations back to fp32) are 77
million more, through memory. So about 1.1 is the floor. It is not reached: operands come from
memory, at 0.4 to 0.6 ns a number. An idle virtual machine of two cores (Intel Xeon with
AVX512-FP16, which gets the large products) showed 1.29 at batch 8, 1.20 at batch 16 and, compiled,
1.19 and 1.05. At `nano` calls weigh more than bytes, 147 products entered through Python and 300
casts: 1.47 and 1.41 there. `--compile` adds the fp16 step as `gradlab train --compile` makes it,
the casts kept, and `--probes` headroom in it.
"""

import argparse
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median

import torch

import gradlab
from benchmarks.turns import take_turns
from gradlab import build_model, model_config
from gradlab.config import PrecisionConfig
from gradlab.models.loss import token_loss
from gradlab.precision.master_weights import MasterWeights
from gradlab.precision.precision import Precision, resolve
from gradlab.probes import Headroom
from gradlab.training.compiled import compiled

SIZES = ("nano", "micro")
BATCHES = (8, 16)
MODES = ("fp32", "fp16", "fp16-pure")
COMPILED, PROBED = "compiled", "compiled, probed"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20, help="timed steps of each mode")
    parser.add_argument("--arch", default="pre-ln", help="architecture")
    parser.add_argument("--size", nargs="+", choices=SIZES, default=SIZES, help="model sizes")
    parser.add_argument(
        "--compile", action="store_true", help="the fp16 step compiled, too, and so probed"
    )
    parser.add_argument("--probes", action="store_true", help="with headroom in it, as a study has")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    # One of the two: of a class of models the graphs have probes in them, or have not.
    compiled_step = (PROBED if options.probes else COMPILED,) if options.compile else ()
    modes = (*MODES, *compiled_step)
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {options.arch}, 1 thread, medians of {options.steps} steps")
    print(f"{'':16}{'fp32 ms':>10}" + "".join(f"{mode:>18}" for mode in modes[1:]))
    for size, batch in ((size, batch) for size in options.size for batch in BATCHES):
        with ExitStack() as probes:
            steps = {mode: training_step(options.arch, size, batch, mode, probes) for mode in modes}
            times = take_turns(
                {mode: step.take for mode, step in steps.items()},
                options.steps,
                clock="cpu",
                device=torch.device("cpu"),
                # A loop opens it once: the millisecond that takes is not the step's.
                within=lambda mode: steps[mode].precision.arithmetic(),  # noqa: B023
            )
        ratios = (
            median(t / base for t, base in zip(times[mode], times["fp32"], strict=True))
            for mode in modes[1:]
        )
        print(
            f"{size:8}batch {batch:<2}{median(times['fp32']) * 1e3:10.1f}"
            + "".join(f"{ratio:18.2f}" for ratio in ratios),
            flush=True,
        )


@dataclass(frozen=True)
class Steps:
    """Takes a step when called, in the arithmetic that it needs."""

    precision: Precision
    take: Callable[[], None]


def training_step(arch: str, size: str, batch: int, mode: str, probes: ExitStack) -> Steps:
    """One step on random tokens: forward, backward, unscale, fused AdamW."""
    config = model_config(arch, size)
    name = "fp16" if mode in (COMPILED, PROBED) else mode
    precision = resolve(PrecisionConfig.from_mapping({"name": name}), torch.device("cpu"))
    model = build_model(config, dtype=precision.weight_dtype, seed=0)
    masters = MasterWeights(model) if precision.weight_dtype is torch.float16 else None
    trained = masters.parameters if masters else list(model.parameters())
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    scaler = precision.grad_scaler()
    if mode == PROBED:
        looks = gradlab.attach(model, optimizer, scaler=scaler, probes=[Headroom()], every=10)
        probes.enter_context(looks)
    forward = compiled(model) if mode in (COMPILED, PROBED) else model
    tokens = torch.randint(config.vocab_size, (batch, config.max_seq_len + 1))
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    def step() -> None:
        model.zero_grad()
        with precision.autocast():
            logits = forward(inputs)
        scaler.scale(token_loss(logits, targets)).backward()
        if masters:
            masters.take_gradients()
        scaler.step(optimizer)
        scaler.update()
        if masters:
            masters.write_back()

    return Steps(precision, step)


if __name__ == "__main__":
    main()
