"""Rows of runs that nobody trained: eight steps, whose headroom layer 0 loses at the last."""

import math

from gradlab.config import RunConfig
from gradlab.runs.writer import RunWriter

STEPS = range(8)


def write_steps(writer: RunWriter, config: RunConfig, loss: float = 2.0) -> None:
    """The table `steps`."""
    nothing = [None] * len(STEPS)
    writer.write(
        "steps",
        {
            "step": STEPS,
            "update": STEPS,
            "lr": [config.lr(step) for step in STEPS],
            "loss": [loss] * len(STEPS),
            "val_loss": nothing,
            "loss_scale": nothing,
            "skipped": [False] * len(STEPS),
            "grad_norm": nothing,
            "tokens": STEPS,
            "seconds": [float(step) for step in STEPS],
        },
    )


def write_headroom(writer: RunWriter) -> None:
    """The table `headroom`, of two layers."""
    rows = [(step, layer) for step in STEPS for layer in range(2)]
    bits = [-math.inf if step == 7 and not layer else 9.0 - step for step, layer in rows]
    writer.write(
        "headroom",
        {
            "step": [step for step, _ in rows],
            "site": [f"blocks.{layer}.attention.scores" for _, layer in rows],
            "layer": [layer for _, layer in rows],
            "op": ["scores"] * len(rows),
            "direction": ["forward"] * len(rows),
            "dtype": ["float16"] * len(rows),
            "max_abs": [1.0] * len(rows),
            "headroom_bits": bits,
            "underflow_frac": [0.0] * len(rows),
            "nonfinite": [0] * len(rows),
        },
    )
