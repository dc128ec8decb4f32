"""The paper-style figures of `gradlab figures`: what each needs, and how it comes from runs."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gradlab.errors import GradlabError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from gradlab.cli.command_options import FiguresOptions
    from gradlab.runs.reader import Run

GRADIENT_OP = "fc2"
"""The op of figure 3, as in the paper."""


@dataclass(frozen=True)
class Drawing:
    """A figure and the table behind it.

    Attributes:
        name: Of its files, without an ending.
        figure: The figure.
        table: Its numbers with the runs behind each, if they fit a small table.
    """

    name: str
    figure: "Figure"
    table: "pd.DataFrame | None" = None


@dataclass(frozen=True)
class Kind:
    """A kind of figure.

    Attributes:
        title: `figure 4`.
        tables: The tables that each run must have recorded.
        remedy: How to record them.
        free: What may differ between the runs of one figure
            (`gradlab.analyses.comparable.check_comparable`).
        draw: From comparable runs to drawings, in the order of the architectures.
        one_step: It shows one step that all runs have, which those that destabilised bring down
            to their last: they are left out where there are others.
        lacks: Why a run that has the tables cannot be in it, in a few words; None if it can.
    """

    title: str
    tables: tuple[str, ...]
    remedy: str
    draw: "Callable[[Sequence[Run], FiguresOptions], Iterator[Drawing]]"
    free: tuple[str, ...] = ()
    one_step: bool = False
    lacks: "Callable[[Run], str | None]" = lambda _: None


def draw_perplexity(runs: Sequence["Run"], options: "FiguresOptions") -> Iterator[Drawing]:
    """Figure 2."""
    from gradlab.analyses.compute import compute_saved, perplexity_curves, summarise_saved
    from gradlab.figures.compute import perplexity_by_compute
    from gradlab.figures.style import figure_of

    curves = perplexity_curves(runs)
    baseline = choose_baseline(runs, options)
    ax = perplexity_by_compute(curves, baseline=baseline, compute=options.compute)
    saved = compute_saved(curves, baseline=baseline, compute=options.compute)
    yield Drawing("perplexity", figure_of(ax), summarise_saved(saved))


def draw_gradients(runs: Sequence["Run"], options: "FiguresOptions") -> Iterator[Drawing]:
    """Figure 3, a panel a window."""
    from gradlab.analyses.gradient_study import (
        study_gradients,
        study_mismatch,
        summarise_mismatch,
    )
    from gradlab.figures.gradients import gradient_panels

    gradients = study_gradients(runs, length=window_length(runs, options))
    figure = gradient_panels(gradients, op=GRADIENT_OP)
    table = summarise_mismatch(study_mismatch(gradients))
    yield Drawing(f"gradients_{GRADIENT_OP}", figure, table[table["op"] == GRADIENT_OP])


def draw_scales(runs: Sequence["Run"], _: "FiguresOptions") -> Iterator[Drawing]:
    """Figure 4."""
    from gradlab.analyses.scales import scale_distributions, summarise_scales
    from gradlab.figures.scales import scale_panels

    distributions = scale_distributions(runs)
    yield Drawing("scales", scale_panels(distributions), summarise_scales(distributions))


def draw_lambda(runs: Sequence["Run"], _: "FiguresOptions") -> Iterator[Drawing]:
    """Figure 6, one for each residual that has a λ."""
    from gradlab.analyses.scales import lambda_by_depth, summarise_lambda
    from gradlab.figures.lambda_resid import lambda_resid_by_depth
    from gradlab.figures.style import figure_of

    lambdas = lambda_by_depth(runs)
    table = summarise_lambda(lambdas)
    for residual in lambdas["residual"].unique():
        name = "lambda_resid" if residual == "ffn_residual" else f"lambda_{residual}"
        figure = figure_of(lambda_resid_by_depth(lambdas, residual=residual))
        yield Drawing(name, figure, table[table["residual"] == residual])


def draw_relative(runs: Sequence["Run"], options: "FiguresOptions") -> Iterator[Drawing]:
    """Figure 7, one a window."""
    from gradlab.analyses.gradient_study import study_gradients
    from gradlab.analyses.relative_gradients import (
        relative_gradients,
        study_losses,
        summarise_relative,
    )
    from gradlab.figures.relative_gradients import relative_panels

    length = window_length(runs, options)
    gradients = study_gradients(runs, length=length)
    losses = study_losses(runs, length=length)
    relative = relative_gradients(gradients, losses, baseline=choose_baseline(runs, options))
    table = summarise_relative(relative)
    for window in relative["window"].unique():
        figure = relative_panels(relative, window=window)
        yield Drawing(f"relative_gradients_{window}", figure, table[table["window"] == window])


def draw_headroom(runs: Sequence["Run"], _: "FiguresOptions") -> Iterator[Drawing]:
    """The way to an overflow, a panel for the first seed of each architecture."""
    from gradlab.analyses.comparable import run_key
    from gradlab.analyses.headroom import tightest_by_layer
    from gradlab.figures.headroom import Road, headroom_panels
    from gradlab.figures.style import looks

    roads: dict[str, Road] = {}
    labels = looks(run_key(run)[1] for run in runs)
    for run in runs:
        title = labels[run_key(run)[1]].label
        if title in roads:
            continue
        tightest = tightest_by_layer(run.table("headroom"), run.table("steps", ["step", "lr"]))
        broke = run.verdict is not None and run.verdict.broke
        end = (run.verdict.lr, run.verdict.step) if run.verdict and broke else (None, None)
        roads[title] = Road(tightest, *end)
    ramp = not runs[0].attached and runs[0].config.schedule.kind == "ramp"
    yield Drawing("headroom", headroom_panels(roads, against="lr" if ramp else "step"))


def choose_baseline(runs: Sequence["Run"], options: "FiguresOptions") -> str:
    """The architecture asked for, else Pre-LN, else the first."""
    if options.baseline is not None:
        return options.baseline
    architectures = [run.config.arch for run in runs]
    return "pre-ln" if "pre-ln" in architectures else architectures[0]


def window_length(runs: Sequence["Run"], options: "FiguresOptions") -> int:
    """The steps asked for, here or of the study, else as many as two windows have room for.

    No more than the usual then. Runs of studies that were asked for several have the usual too.
    """
    from gradlab.analyses.gradients import WINDOW_STEPS
    from gradlab.runs.study import study_commands

    if options.average is not None:
        return options.average
    asked = {study.options.get("average") for study in study_commands(runs) if study is not None}
    if len(asked) == 1 and isinstance(average := asked.pop(), int):
        return average
    config = runs[0].config
    return min(WINDOW_STEPS, max(1, (config.steps - config.schedule.warmup_steps) // 2))


def has_no_end(run: "Run") -> str | None:
    """Why a run has no late window."""
    if run.attached:
        return _LOOP
    ended = run.verdict is not None and run.verdict.censored
    return None if ended else "it has not reached its last step"


def has_no_validation(run: "Run") -> str | None:
    """Why a run has no perplexity."""
    if run.attached:
        return _LOOP
    if run.table("steps", ["val_loss"])["val_loss"].notna().any():
        return None
    if run.config.val_every:
        return "it has no validation, or none that is a number"
    return "it has no validation, which gradlab train --val-every 50 makes"


_LOOP = "it is of a loop of its own (gradlab.attach), whose config is not known"

_RESIZED = ("sizes", "batches", "schedules")

KINDS = (
    Kind(
        "figure 2",
        ("steps",),
        "train it with gradlab train --val-every 50",
        draw_perplexity,
        free=("schedules",),
        lacks=has_no_validation,
    ),
    Kind(
        "figure 3",
        ("grad_norms",),
        "record it with --probes grad_norms",
        draw_gradients,
        lacks=has_no_end,
    ),
    Kind(
        "figure 4",
        ("scales",),
        "record it with --probes scales",
        draw_scales,
        one_step=True,
    ),
    Kind(
        "figure 6",
        ("scales",),
        "record it with --probes scales",
        draw_lambda,
        free=_RESIZED,
        one_step=True,
    ),
    Kind(
        "figure 7",
        ("grad_norms", "steps"),
        "record it with --probes grad_norms",
        draw_relative,
        lacks=has_no_end,
    ),
    Kind(
        "headroom",
        ("headroom", "steps"),
        "record it with --probes headroom",
        draw_headroom,
    ),
)
"""Every figure that is made from runs; figure 5 is made from a study's table."""


def stability_drawings(folder: Path) -> Iterator[Drawing]:
    """Figure 5 of a stability study, and each architecture against its first, a figure a ramp."""
    from gradlab.analyses.stability import paired_differences, summarise_stability
    from gradlab.analyses.stability_table import read_stability
    from gradlab.figures.differences import lr_against_baseline
    from gradlab.figures.stability import lr_at_break
    from gradlab.figures.style import figure_of

    table = read_stability(folder)
    if table.empty:
        raise GradlabError(f"{folder / 'stability.csv'} has no rows: no run has ended yet.")
    yield Drawing("lr_at_break", figure_of(lr_at_break(table)), summarise_stability(table))
    for ramp, rows in table.groupby("lr_step", sort=False):
        baseline = rows["arch"].iloc[0]
        differences = paired_differences(rows)
        mine = differences[differences["baseline"] == baseline]
        if mine["pairs"].any():
            figure = figure_of(lr_against_baseline(rows, baseline=baseline))
            yield Drawing(f"lr_against_{baseline}_ramp{ramp:g}", figure, mine)
