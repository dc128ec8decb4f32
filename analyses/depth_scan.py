"""Which depths of each architecture train, and what their gradients and states are."""

import math
from typing import Any

import numpy as np
import pandas as pd

from gradlab.analyses.finding import counted, listed
from gradlab.analyses.gradients import gradients_by_layer
from gradlab.errors import GradlabError
from gradlab.runs.reader import Run
from gradlab.runs.study import StudyRecord
from gradlab.studies.depth_scan import STEP_BYTES, DepthScan
from gradlab.studies.limit import survived

COLUMNS = [
    *("arch", "depth", "warmup", "seed", "trains", "reason", "step", "loss", "entropy"),
    *("first_start", "last_start", "first_end", "last_end", "cosine"),
    *("seconds", "bytes", "stable_low", "stable_high"),
]


def depth_scan(study: StudyRecord) -> pd.DataFrame:
    """What became of each depth, of the runs that have ended.

    Args:
        study: A study of `gradlab depth-scan`, finished or not.

    Returns:
        One row per (seed, depth, warmup, arch): trains (whether the run did not destabilise and
        `loss` is under `entropy`), reason and step (of its end), loss (mean over its last tenth of
        steps, one at least), entropy (the text's unigram entropy), first_start, last_start,
        first_end, last_end (mean |g| over the weights of the first and of the last layer, at the
        first and the last recorded step; NaN without `grad_norms`, and at the end of a run that
        broke before), cosine (between tokens that the last layer gives, at
        the last recorded step), seconds (of a step, the median), bytes (of a step, as counted
        before), stable_low and stable_high (the highest learning rate survived and the lowest not;
        NaN without --stable).

    Raises:
        GradlabError: The study is another one, or a run does not say its text's entropy.
    """
    settings = _settings(study)
    runs = study.runs
    rates = settings.rates() if settings.stable else None
    tried = survived(runs)
    rows = []
    for run in runs:
        config, verdict = run.config, run.verdict
        is_base = config.schedule.lr == settings.lr
        if not is_base or verdict is None or not (verdict.broke or verdict.censored):
            continue
        steps = run.table("steps", ["step", "loss", "seconds"])
        late = steps["loss"].tail(max(1, config.steps // 10))
        entropy = run.info.get("unigram_entropy")
        if entropy is None:
            raise GradlabError(
                f"{run.path}'s run.json lacks unigram_entropy, the loss under which a run counts "
                "as trained: put back a copy of it."
            )
        row: dict[str, Any] = {
            "arch": config.arch,
            "depth": config.model.n_layers,
            "warmup": config.schedule.warmup_steps,
            "seed": config.seed,
            "reason": verdict.reason,
            "step": verdict.step,
            "loss": float(late.mean()),
            "entropy": entropy,
            "trains": verdict.censored and bool(late.mean() < entropy),
            "seconds": float(steps["seconds"].diff().median()),
            "bytes": study.notes.get(STEP_BYTES, {}).get(config.row, math.nan),
            **_ends(run),
        }
        if rates is not None:
            low, high = rates.bracket(tried.get((config.row, config.seed), {}))
            row |= {"stable_low": low, "stable_high": high}
        rows.append(row)
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table.astype(dict.fromkeys(COLUMNS[7:], "float64") | {"trains": bool})


def layer_gradients(study: StudyRecord) -> pd.DataFrame:
    """Mean |g| of each layer's weights at the first and at the last step, of each run that has it.

    Args:
        study: A study of `gradlab depth-scan`.

    Returns:
        Columns arch, depth, warmup, seed, when (`start`, `end`), layer, size.
    """
    settings = _settings(study)
    rows = []
    for run in study.runs:
        config = run.config
        if config.schedule.lr != settings.lr or "grad_norms" not in run.tables:
            continue
        for when, sizes in _sizes(run).items():
            rows += [
                {
                    "arch": config.arch,
                    "depth": config.model.n_layers,
                    "warmup": config.schedule.warmup_steps,
                    "seed": config.seed,
                    "when": when,
                    "layer": layer,
                    "size": size,
                }
                for layer, size in sizes.items()
            ]
    return pd.DataFrame(rows, columns=["arch", "depth", "warmup", "seed", "when", "layer", "size"])


def depth_sentences(table: pd.DataFrame) -> list[str]:
    """Up to which depth each architecture trains, with each warm-up.

    Args:
        table: A table of `depth_scan`.
    """
    sentences = []
    for _, rows in table.groupby(["arch", "warmup"], sort=False):
        arch, warmup = rows[["arch", "warmup"]].iloc[0]
        share = rows.groupby("depth")["trains"].mean()
        whole, none, some = (
            share.index[mask].tolist()
            for mask in (share == 1, share == 0, share.between(0, 1, "neither"))
        )
        start = f"{arch} {'without warm-up' if not warmup else f'with {warmup} steps of warm-up'}"
        if not none and not some:
            sentences.append(f"{start} trains at every depth tried, up to {max(whole)} layers.")
            continue
        parts = [f"trains at {_depths(whole)}"] if whole else []
        if none:
            parts.append(
                f"does not at {_depths(none)}" if whole else f"does not train at {_depths(none)}"
            )
        parts += [f"does in some seeds at {_depths(some)}"] if some else []
        sentences.append(f"{start} {', and '.join(parts)}.")
    return sentences


def _depths(depths: list[int]) -> str:
    if len(depths) == 1:
        return counted(depths[0], "layer")
    return f"{listed([str(depth) for depth in depths], most=8)} layers"


def _settings(study: StudyRecord) -> DepthScan:
    if study.command is None or study.command.name != DepthScan.command_name:
        raise GradlabError(f"{study.folder} holds no study of gradlab depth-scan.")
    return DepthScan(**study.command.options)


def _ends(run: Run) -> dict[str, float]:
    """The gradients of the first and the last layer, and the last layer's cosine."""
    found = dict.fromkeys(COLUMNS[9:14], math.nan)
    if "grad_norms" in run.tables:
        for when, sizes in _sizes(run).items():
            found[f"first_{when}"], found[f"last_{when}"] = sizes.iloc[0], sizes.iloc[-1]
    if "hidden" in run.tables:
        hidden = run.table("hidden", ["step", "layer", "cosine"])
        if len(hidden):
            last = hidden[hidden["step"] == hidden["step"].max()]
            found["cosine"] = float(last.sort_values("layer")["cosine"].iloc[-1])
    return found


def _sizes(run: Run) -> dict[str, "pd.Series[float]"]:
    """Mean |g| by layer at the first step, and at the last if the run came there."""
    grads = run.table("grad_norms")
    found = {}
    for when, step in (("start", 0), ("end", run.config.steps - 1)):
        if (grads["step"] == step).any():
            layers = gradients_by_layer(grads, first=step, last=step)
            sums = layers.groupby("layer")[["grad_l1", "numel"]].sum(min_count=1)
            found[when] = (sums["grad_l1"] / sums["numel"]).replace([np.inf], np.nan)
    return found
