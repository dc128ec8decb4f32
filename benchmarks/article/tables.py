"""The tables that the claims are read from: one of all depth scans, of losses, and of the loop."""

import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from benchmarks.article.studies import STUDIES
from gradlab.analyses.depth import vanishing_layers
from gradlab.analyses.depth_scan import depth_scan
from gradlab.analyses.final_losses import final_losses
from gradlab.runs.reader import Run
from gradlab.runs.study import StudyRecord
from gradlab.studies import DepthScan

EXAMPLE = Path(__file__).parents[2] / "examples" / "norms_off.py"

STEPS, OFF = 200, 100
"""Of the loop, and when its norms go."""


def scans(studies: Mapping[str, StudyRecord]) -> pd.DataFrame:
    """A row a run of all depth scans: `depth_scan`'s, the study, and `by_layer`."""
    found: list[dict[Any, Any]] = []
    for name, study in studies.items():
        if isinstance(STUDIES[name], DepthScan):
            runs = {_key(run): run for run in study.runs}
            for row in depth_scan(study).to_dict("records"):
                run = runs[row["arch"], row["depth"], row["warmup"], row["seed"]]
                found.append({"study": name} | row | by_layer(run))
    return pd.DataFrame(found)


def _key(run: Run) -> tuple[str, int, int, int]:
    config = run.config
    return config.arch, config.model.n_layers, config.schedule.warmup_steps, config.seed


def by_layer(run: Run) -> dict[str, float]:
    """What the layers' states and attention are at the first and the last step of a run.

    cka and attention (the entropy of all heads) are means over layers, `std` is the last layer's,
    and vanished the number of layers whose gradients have.
    """
    found: dict[str, float] = {"vanished": len(vanishing_layers(run.table("grad_norms")))}
    for when, step in (("start", 0), ("end", run.config.steps - 1)):
        hidden = run.table("hidden")
        hidden = hidden[hidden["step"] == step].sort_values("layer")
        if len(hidden):
            found[f"std_{when}"] = hidden["std"].iloc[-1]
            found[f"cka_{when}"] = hidden["cka"].mean()
            found[f"branch_{when}"] = hidden["last_branch"].iloc[-1]
        if "entropy" in run.tables:
            entropy = run.table("entropy")
            found[f"attention_{when}"] = entropy[entropy["step"] == step]["entropy"].mean()
    return found


def losses(studies: Mapping[str, StudyRecord]) -> pd.DataFrame:
    """The final validation losses of the norms, a row a run."""
    return final_losses(studies["norms"].runs, vary="steps")


def loops(seeds: int) -> pd.DataFrame:
    """What became of the example's loop: a row for each way of treating the norms and each seed.

    Columns how, seed, peak (the highest loss from step `OFF` on), loss (the mean of the last tenth
    of steps), mean_shift and std_shift (of what the sublayers are given, the median over them and
    the recorded steps of the second half).
    """
    example = runpy.run_path(str(EXAMPLE))
    ways: dict[str, dict[str, Any]] = {
        "kept": {},
        "removed": {"put": nn.Identity},
        "constant": {"put": example["Constant"]},
        "never": {"placement": "none"},
    }
    found = []
    for seed in range(seeds):
        for how, options in ways.items():
            run = example["trained"](**options, seed=seed, steps=STEPS, off=OFF)
            loss, hidden = run.table("steps")["loss"], run.table("hidden")
            late = hidden[hidden["step"] > OFF]
            found.append(
                {
                    "how": how,
                    "seed": seed,
                    "peak": loss[OFF:].max(),
                    "loss": loss.tail(STEPS // 10).mean(),
                    "mean_shift": late["mean_shift"].median(),
                    "std_shift": late["std_shift"].median(),
                }
            )
    return pd.DataFrame(found)
