"""Runs that nobody trained, with all the tables that the paper's figures need."""

import math
from pathlib import Path
from typing import Any

from gradlab.config import RecordConfig, RunConfig, ScheduleConfig
from gradlab.models.presets import model_config
from gradlab.runs.verdict import Verdict
from gradlab.runs.writer import RunWriter

ALL = ("headroom", "grad_norms", "scales")
STEPS = 12


def record(
    folder: Path,
    arch: str = "normformer-resscale",
    seed: int = 0,
    *,
    model: str | None = None,
    layers: int = 2,
    steps: int = STEPS,
    tables: tuple[str, ...] = ALL,
    value: float = 1.0,
    val_every: int = 3,
    finish: bool = True,
    verdict: Verdict | None = None,
    **fields: Any,
) -> Path:
    """A run whose numbers are all `value`, and its learned scales twice that."""
    config = RunConfig(
        **{
            "arch": arch,
            "size": "nano",
            "model": model_config(model or arch, "nano", n_layers=layers),
            "schedule": ScheduleConfig(lr=1e-3, warmup_steps=2 if steps > 2 else 0),
            "steps": steps,
            "seed": seed,
            "val_every": val_every,
            "record": RecordConfig(probes=tables, every=1),
            **fields,
        }
    )
    writer = RunWriter(folder, config, {"corpus": {"sha256": "a"}, "params": 100})
    every = list(range(steps))
    count = len(every)
    due = [config.validates_after(step) for step in every]
    writer.write(
        "steps",
        {
            "step": every,
            "update": every,
            "lr": [config.lr(step) for step in every],
            "loss": [value] * count,
            "val_loss": [value if now else None for now in due],
            "loss_scale": [1.0] * count,
            "skipped": [False] * count,
            "grad_norm": [1.0] * count,
            "tokens": [(step + 1) * 512 for step in every],
            "seconds": [1.0 + step for step in every],
        },
    )
    places = [(step, layer) for step in every for layer in range(layers)]
    where = {"step": [step for step, _ in places], "layer": [layer for _, layer in places]}
    same = lambda what: [what] * len(places)  # noqa: E731
    if "grad_norms" in tables:
        params = [f"blocks.{layer}.feed_forward.fc2.weight" for _, layer in places]
        norms = dict.fromkeys(("grad_l1", "grad_l2", "grad_max_abs"), same(value))
        bad = same(0 if math.isfinite(value) else 4)
        rows = {**where, "param": params, "op": same("fc2"), "numel": same(9), "nonfinite": bad}
        writer.write("grad_norms", {**rows, **norms})
    if "scales" in tables:
        for op, name in {
            "attn_norm": "attn_norm.weight",
            "ffn_mid_norm": "feed_forward.ffn_mid_norm.weight",
            "lambda_resid": "ffn_residual.lambda_resid",
        }.items():
            if op == "attn_norm" or getattr(
                config.model, {"lambda_resid": "res_scale"}.get(op, op)
            ) not in (False, "none"):
                params = [f"blocks.{layer}.{name}" for _, layer in places]
                rows = {**where, "param": params, "op": same(op), "index": same(0)}
                writer.write("scales", {**rows, "value": same(2 * value)})
    if "headroom" in tables:
        sites = [f"blocks.{layer}.attention.scores" for _, layer in places]
        rows = {**where, "site": sites, "op": same("scores"), "direction": same("forward")}
        rows |= {"dtype": same("float32"), "max_abs": same(value), "headroom_bits": same(9 * value)}
        writer.write("headroom", {**rows, "underflow_frac": same(0.0), "nonfinite": same(0)})
    if finish:
        writer.finish("finished", verdict or Verdict(reason="completed", step=steps - 1))
    return folder
