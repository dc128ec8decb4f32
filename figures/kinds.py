"""The kinds of figures that runs allow: what each shows and needs, and how it is drawn."""

from collections.abc import Iterator, Sequence

import pandas as pd

from gradlab.analyses.compute import compute_saved, perplexity_curves, summarise_saved
from gradlab.analyses.final_losses import final_losses
from gradlab.analyses.gradient_study import study_gradients, study_mismatch, summarise_mismatch
from gradlab.analyses.lr_search import losses_by_rate
from gradlab.analyses.relative_gradients import (
    relative_gradients,
    study_losses,
    summarise_relative,
)
from gradlab.analyses.scales import (
    figure_ops,
    lambda_by_depth,
    scale_distributions,
    scale_entries,
    summarise_lambda,
    summarise_scales,
)
from gradlab.analyses.stability import paired_differences, summarise_stability
from gradlab.errors import GradlabError
from gradlab.figures.compute import perplexity_panels
from gradlab.figures.differences import lr_against_baseline
from gradlab.figures.gradients import gradient_panels
from gradlab.figures.kind import AS_USUAL, Choices, Drawing, Kind, RunsKind, StabilityKind
from gradlab.figures.lambda_resid import lambda_resid_by_depth
from gradlab.figures.lr_search import loss_by_rate
from gradlab.figures.relative_gradients import relative_panels
from gradlab.figures.run_kinds import RUN_KINDS
from gradlab.figures.scales import scale_panels
from gradlab.figures.stability import lr_at_break
from gradlab.figures.style import figure_of
from gradlab.runs.reader import Run

GRADIENT_OP = "fc2"
"""The op of figure 3, as in the paper."""


def draw_perplexity(runs: Sequence[Run], choices: Choices = AS_USUAL) -> Iterator[Drawing]:
    """Figure 2."""
    curves = perplexity_curves(runs)
    baseline, compute = choices.baseline_of(runs), choices.compute
    figure = perplexity_panels(curves, baseline=baseline, compute=compute)
    saved = compute_saved(curves, baseline=baseline, compute=compute)
    yield Drawing("perplexity", figure, summarise_saved(saved))


def draw_gradients(runs: Sequence[Run], choices: Choices = AS_USUAL) -> Iterator[Drawing]:
    """Figure 3, a panel a window."""
    gradients = study_gradients(runs, length=choices.length_of(runs))
    op = _largest_op(gradients)
    table = summarise_mismatch(study_mismatch(gradients))
    yield Drawing(f"gradients_{op}", gradient_panels(gradients, op=op), table[table["op"] == op])


def _largest_op(gradients: pd.DataFrame) -> str:
    """The second FFN weight, or in a model without one the last of the largest weights."""
    ops = gradients["op"]
    if GRADIENT_OP in set(ops):
        return GRADIENT_OP
    largest = gradients.groupby("op", sort=False)["numel"].max()
    return str(largest[largest == largest.max()].index[-1])


def draw_scales(runs: Sequence[Run], _: Choices = AS_USUAL) -> Iterator[Drawing]:
    """Figure 4."""
    ops = figure_ops(runs)
    table = summarise_scales(scale_distributions(runs, ops=ops))
    yield Drawing("scales", scale_panels(scale_entries(runs, ops=ops)), table)


def draw_lambda(runs: Sequence[Run], _: Choices = AS_USUAL) -> Iterator[Drawing]:
    """Figure 6, one for each residual that has a λ."""
    lambdas = lambda_by_depth(runs)
    table = summarise_lambda(lambdas)
    for residual in lambdas["residual"].unique():
        name = "lambda_resid" if residual == "ffn_residual" else f"lambda_{residual}"
        figure = figure_of(lambda_resid_by_depth(lambdas, residual=residual))
        yield Drawing(name, figure, table[table["residual"] == residual])


def draw_relative(runs: Sequence[Run], choices: Choices = AS_USUAL) -> Iterator[Drawing]:
    """Figure 7, one a window."""
    length = choices.length_of(runs)
    gradients = study_gradients(runs, length=length)
    losses = study_losses(runs, length=length)
    relative = relative_gradients(gradients, losses, baseline=choices.baseline_of(runs))
    table = summarise_relative(relative)
    for window in relative["window"].unique():
        figure = relative_panels(relative, window=window)
        yield Drawing(f"relative_gradients_{window}", figure, table[table["window"] == window])


def draw_breaks(table: pd.DataFrame) -> Iterator[Drawing]:
    """Figure 5."""
    yield Drawing("lr_at_break", figure_of(lr_at_break(table)), summarise_stability(table))


def draw_differences(table: pd.DataFrame) -> Iterator[Drawing]:
    """Each architecture against the study's first, a figure a ramp."""
    for ramp, rows in table.groupby("lr_step", sort=False):
        baseline = rows["arch"].iloc[0]
        differences = paired_differences(rows)
        mine = differences[differences["baseline"] == baseline]
        if mine["pairs"].any():
            figure = figure_of(lr_against_baseline(rows, baseline=baseline))
            yield Drawing(f"lr_against_{baseline}_ramp{ramp:g}", figure, mine)


def draw_search(runs: Sequence[Run], _: Choices = AS_USUAL) -> Iterator[Drawing]:
    """Loss against the learning rate: Table 1 of the paper, with what lies around it."""
    losses = final_losses(runs, vary="lr")
    yield Drawing("loss_by_rate", figure_of(loss_by_rate(losses)), losses_by_rate(losses))


def _draw_several_rates(runs: Sequence[Run], choices: Choices) -> Iterator[Drawing]:
    if len({run.config.schedule.lr for run in runs}) < 2:
        raise GradlabError("the runs have one learning rate; gradlab lr-search compares several.")
    yield from draw_search(runs, choices)


def _has_no_end(run: Run) -> str | None:
    """Why a run has no late window; of a loop of the user's own the last step is not known."""
    if run.attached or run.completed:
        return None
    if run.verdict is not None and run.verdict.broke:
        return "it broke before its last step: name runs that reached theirs"
    return "it has not reached its last step: go on with it by gradlab train --resume"


def _has_no_loss(run: Run) -> str | None:
    """Why a run's gradients cannot be taken relative to its loss."""
    if run.attached and run.table("steps", ["loss"])["loss"].isna().all():
        return "it has no loss, which probes.loss(loss) records"
    return _has_no_end(run)


def _has_no_validation(run: Run) -> str | None:
    """Why a run has no perplexity."""
    if run.attached:
        return "it has no validation, which only runs of gradlab train --val-every record"
    known = run.table("steps", ["val_loss"])["val_loss"].notna().sum()
    if known > 1:
        return None
    if known:
        return "it has one validation, which makes no curve: --val-every 50 makes several"
    if run.config.val_every:
        return "it has no validation that is a number: with a smaller --val-every one comes earlier"
    return _NOT_VALIDATED


def _has_no_rate(run: Run) -> str | None:
    """Why a run says nothing of a learning rate; one that destabilised does, validated or not."""
    if run.attached:
        return _LOOP
    if run.config.schedule.kind == "ramp":
        return (
            "its learning rate rises at every step; gradlab lr-search makes runs of one rate each"
        )
    if run.verdict is None:
        return "it has not ended: go on with it by gradlab train --resume"
    return None if run.config.val_every else _NOT_VALIDATED


_NOT_VALIDATED = "it has no validation, which gradlab train --val-every 50 makes"

_LOOP = "it is of a loop of its own (gradlab.attach); gradlab lr-search compares rates"

FIGURE_1 = Kind(
    "figure 1",
    "The layers",
    "One layer of each architecture, from its input at the bottom; filled boxes are what plain "
    "Pre-LN and Post-LN lack.",
)

STABILITY_KINDS = (
    StabilityKind(
        "figure 5",
        "Learning rate at the break",
        "The learning rate rises at every step until training destabilises: higher survives more. "
        "A marker is a run, a bar the median of the seeds, a hollow triangle a run that the cap on "
        "steps ended before it broke.",
        draw=draw_breaks,
    ),
    StabilityKind(
        "figure 5",
        "Breaks against the baseline",
        "How much higher or lower each architecture breaks than the first, over the seeds that "
        "both have, with a 95 % interval; hollow where the two are not distinguished.",
        draw=draw_differences,
    ),
)
"""The figures of a stability study, in the order of a page."""

KINDS = (
    *RUN_KINDS,
    RunsKind(
        "figure 2",
        "Perplexity against compute",
        "Validation perplexity against the compute spent until then; a star where a run first "
        "reaches the baseline's best.",
        tables=("steps",),
        remedy="train it with gradlab train --val-every 50",
        draw=draw_perplexity,
        free=("schedules",),
        lacks=_has_no_validation,
    ),
    RunsKind(
        "table 1",
        "Loss against the learning rate",
        "Final validation loss at each peak learning rate: a small point is a run, a cross one "
        "that diverged, the line joins the means over seeds, and a ring marks the best rate.",
        tables=("steps",),
        remedy="make it with gradlab lr-search",
        draw=_draw_several_rates,
        free=("schedules",),
        by_rate=True,
        lacks=_has_no_rate,
    ),
    RunsKind(
        "figure 3",
        "Gradients by layer",
        "Mean L1 norm of the gradient of the second FFN weight (or the largest there is), early in "
        "training (after the warm-up) and late: mean and range over seeds.",
        tables=("grad_norms",),
        remedy="record it with --probes grad_norms",
        draw=draw_gradients,
        lacks=_has_no_end,
    ),
    RunsKind(
        "figure 4",
        "Learned scales by layer",
        "How the entries of each learned scale are distributed, layer by layer, late in training.",
        tables=("scales",),
        remedy="record it with --probes scales",
        draw=draw_scales,
        one_step=True,
    ),
    RunsKind(
        "figure 6",
        "λ on the residual by depth",
        "The mean of the learned factor on the skip against the depth of its layer.",
        tables=("scales",),
        remedy="record it with --probes scales",
        draw=draw_lambda,
        free=("sizes", "batches", "schedules"),
        one_step=True,
    ),
    RunsKind(
        "figure 7",
        "Gradients relative to the baseline",
        "The gradient norm of each operation in each layer over the baseline's, both over the "
        "loss. A star marks a cell whose 95 % interval over seeds sets it apart from 1.",
        tables=("grad_norms", "steps"),
        remedy="record it with --probes grad_norms",
        draw=draw_relative,
        lacks=_has_no_loss,
    ),
)
"""Every figure that is made of what runs recorded, in the order of a page."""
