"""The figures of the paper's claims, by the study that each is drawn from."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from gradlab.analyses.claim_tables import time_budget, timed_curves
from gradlab.analyses.compute import compute_saved, summarise_saved
from gradlab.analyses.stability_table import read_stability
from gradlab.figures.compute import perplexity_panels
from gradlab.figures.kind import Drawing
from gradlab.figures.kinds import (
    draw_breaks,
    draw_gradients,
    draw_lambda,
    draw_relative,
    draw_scales,
)
from gradlab.models.presets import BASELINE
from gradlab.runs.reader import Run

FIGURE_2 = ("pre-ln", "normformer", "normformer-resscale")
"""The ablation's rows that figure 2 shows, as in the paper."""


def _gradients(_: Path, runs: Sequence[Run]) -> Iterator[Drawing]:
    return draw_gradients(runs)


def _scales(_: Path, runs: Sequence[Run]) -> Iterator[Drawing]:
    yield from draw_scales(runs)
    yield from draw_lambda(runs)
    for drawing in draw_relative(runs):
        if drawing.name.endswith("late"):  # the window that the paper's figure shows
            yield drawing


def _stability(folder: Path, _: Sequence[Run]) -> Iterator[Drawing]:
    return draw_breaks(read_stability(folder))


def _ablation(folder: Path, runs: Sequence[Run]) -> Iterator[Drawing]:
    """Figure 2 in the time of the steps alone."""
    shown = sorted(
        (run for run in runs if run.config.arch in FIGURE_2),
        key=lambda run: FIGURE_2.index(run.config.arch),
    )
    curves = timed_curves(shown, time_budget(folder, runs))
    saved = compute_saved(curves, baseline=BASELINE, compute="seconds")
    figure = perplexity_panels(curves, baseline=BASELINE, compute="seconds")
    yield Drawing("perplexity", figure, summarise_saved(saved))


CLAIM_DRAWINGS: Mapping[str, Callable[[Path, Sequence[Run]], Iterator[Drawing]]] = MappingProxyType(
    {
        "gradients": _gradients,
        "scales": _scales,
        "stability": _stability,
        "ablation": _ablation,
    }
)
"""From a study's folder and its finished runs to its figures."""
