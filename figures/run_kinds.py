"""The kinds of figures that show runs step by step, of any loop."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from gradlab.analyses.comparable import run_keys, seed_of
from gradlab.analyses.course import course, course_events
from gradlab.analyses.depth import entropy_courses, states_by_depth
from gradlab.analyses.headroom import gradient_overflows, tightest_by_layer
from gradlab.analyses.layer_courses import (
    gradient_courses,
    gradient_sizes,
    gradients_of_layers,
    scale_courses,
    score_courses,
    update_courses,
)
from gradlab.figures.course import Break, course_panels
from gradlab.figures.depth import states_against_depth
from gradlab.figures.entropy_courses import entropy_over_steps
from gradlab.figures.gradient_grid import gradient_grid
from gradlab.figures.gradient_sizes import gradient_size_by_layer
from gradlab.figures.headroom import Road, headroom_panels
from gradlab.figures.kind import AS_USUAL, Choices, Drawing, RunsKind
from gradlab.figures.layer_courses import (
    gradient_norm_over_steps,
    scales_over_steps,
    update_over_weight,
)
from gradlab.figures.score_courses import scores_over_steps
from gradlab.figures.style import figure_of, looks, run_label
from gradlab.runs.reader import Run


def draw_course(runs: Sequence[Run], _: Choices = AS_USUAL) -> Iterator[Drawing]:
    """Loss, learning rate and loss scale, and what happened on the way."""
    breaks = [
        Break(arch, run.verdict.step, seed_of(run))
        for run, (_size, arch, _seed) in zip(runs, run_keys(runs), strict=True)
        if run.verdict is not None and run.verdict.broke and run.verdict.step is not None
    ]
    yield Drawing("course", course_panels(course(runs), course_events(runs), breaks))


@dataclass(frozen=True)
class _Shown:
    """A run that stands for its architecture.

    Attributes:
        run: The run.
        arch: Its architecture.
        look: What that is called,
        label: and with the seed.
        suffix: Of the file, where there are several.
    """

    run: Run
    arch: str
    look: str
    label: str
    suffix: str

    @property
    def break_step(self) -> int | None:
        verdict = self.run.verdict
        return verdict.step if verdict is not None and verdict.broke else None


def _first_seeds(runs: Sequence[Run]) -> Iterator[_Shown]:
    """The first run of each architecture."""
    keys = run_keys(runs)
    style = looks(arch for _, arch, _ in keys)
    seen: set[str] = set()
    for run, (_, arch, _) in zip(runs, keys, strict=True):
        if arch not in seen:
            suffix = f"_{arch}" if len(style) > 1 else ""
            look = style[arch]
            yield _Shown(run, arch, look.label, run_label(look, seed_of(run)), suffix)
        seen.add(arch)


def _over_steps(
    file: str,
    table: str,
    title: str,
    courses_of: Callable[[pd.DataFrame], pd.DataFrame],
    panels: Callable[..., Figure],
) -> Callable[[Sequence[Run], Choices], Iterator[Drawing]]:
    """What draws a figure of a table over steps for the first seed of each architecture."""

    def draw(runs: Sequence[Run], _: Choices = AS_USUAL) -> Iterator[Drawing]:
        for shown in _first_seeds(runs):
            figure = panels(
                courses_of(shown.run.table(table)),
                title=f"{title}: {shown.label}",
                break_step=shown.break_step,
            )
            yield Drawing(f"{file}_over_steps{shown.suffix}", figure)

    return draw


def draw_gradient_grid(runs: Sequence[Run], _: Choices = AS_USUAL) -> Iterator[Drawing]:
    """The norm of each layer's gradients, a panel for the first seed of each architecture."""
    gradients, breaks = {}, {}
    for shown in _first_seeds(runs):
        gradients[shown.label] = gradients_of_layers(shown.run.table("grad_norms"))
        breaks[shown.label] = shown.break_step
    yield Drawing("gradient_grid", gradient_grid(gradients, breaks))


def draw_gradient_sizes(runs: Sequence[Run], _: Choices = AS_USUAL) -> Iterator[Drawing]:
    """Mean |g| by layer, the first seed of each architecture."""
    every = list(_first_seeds(runs))
    sizes = [
        gradient_sizes(shown.run.table("grad_norms")).assign(arch=shown.arch) for shown in every
    ]
    table = pd.concat(sizes, ignore_index=True)
    title = every[0].label if len(every) == 1 else ""
    yield Drawing("gradient_sizes", figure_of(gradient_size_by_layer(table, title=title)), table)


def draw_states(runs: Sequence[Run], _: Choices = AS_USUAL) -> Iterator[Drawing]:
    """The states of the layers, the first seed of each architecture."""
    every = list(_first_seeds(runs))
    states = [states_by_depth(shown.run.table("hidden")).assign(arch=shown.arch) for shown in every]
    table = pd.concat(states, ignore_index=True)
    title = "Hidden states by depth" + (f": {every[0].label}" if len(every) == 1 else "")
    yield Drawing("states_by_depth", states_against_depth(table, title=title), table)


def draw_headroom(runs: Sequence[Run], _: Choices = AS_USUAL) -> Iterator[Drawing]:
    """The way to an overflow, a panel for the first seed of each architecture."""
    roads: dict[str, Road] = {}
    for shown in _first_seeds(runs):
        run, verdict = shown.run, shown.run.verdict
        steps = run.table("steps", ["step", "lr"])
        tightest = tightest_by_layer(run.table("headroom"), steps)
        gradients = None
        if "overflows" in run.tables:
            gradients = gradient_overflows(run.table("overflows", ["step", "direction"]), steps)
        end = (verdict.lr, verdict.step) if verdict is not None and verdict.broke else (None, None)
        roads[shown.look] = Road(tightest, *end, seed_of(run), gradients)
    ramp = not runs[0].attached and runs[0].config.schedule.kind == "ramp"
    yield Drawing("headroom", headroom_panels(roads, against="lr" if ramp else "step"))


RUN_KINDS = (
    RunsKind(
        "course",
        "The course of training",
        "Loss, learning rate and loss scale over steps, and below them the steps that the "
        "optimizer skipped and those with something that was not finite. The dashed line is the "
        "break.",
        tables=("steps",),
        remedy="every run has it",
        draw=draw_course,
    ),
    RunsKind(
        "headroom",
        "FP16 headroom by layer",
        "Bits left before FP16 overflows, at the tightest place of each layer: the darker, the "
        "fewer. The vertical line is the break, a mark above a step at which a gradient "
        "overflowed. The first seed of each architecture.",
        tables=("headroom", "steps"),
        remedy="record it with --probes headroom",
        draw=draw_headroom,
    ),
    RunsKind(
        "gradients over steps",
        "Gradients over steps",
        "The L2 norm of the gradient of each operation's weights: a line is a layer, and ticks on "
        "top are steps at which an entry was not finite. The first seed of each architecture.",
        tables=("grad_norms",),
        remedy="record it with --probes grad_norms",
        draw=_over_steps(
            "gradients", "grad_norms", "Gradient norm", gradient_courses, gradient_norm_over_steps
        ),
    ),
    RunsKind(
        "gradient grid",
        "Gradients by layer and step",
        "The L2 norm of the gradient of each layer's weights, at its largest in a stretch of "
        "steps: the darker, the larger. Orange is what was not finite, grey what was 0. The first "
        "seed of each architecture.",
        tables=("grad_norms",),
        remedy="record it with --probes grad_norms",
        draw=draw_gradient_grid,
    ),
    RunsKind(
        "gradient sizes",
        "Size of the gradients by layer",
        "How the mean |g| of each weight is distributed in each layer, over weights and steps: the "
        "wide bar is the middle half, the stroke in it the median. The first seed of each "
        "architecture.",
        tables=("grad_norms",),
        remedy="record it with --probes grad_norms",
        draw=draw_gradient_sizes,
    ),
    RunsKind(
        "updates over steps",
        "Update over weight",
        "How far each step of the optimizer moved the weights of each operation, against their "
        "size: a line is a layer. The first seed of each architecture.",
        tables=("optimizer",),
        remedy="record it with --probes optimizer",
        draw=_over_steps(
            "updates", "optimizer", "Update over weight", update_courses, update_over_weight
        ),
    ),
    RunsKind(
        "scales over steps",
        "Learned scales over steps",
        "The mean of each learned scale: a line is a layer. The first seed of each architecture.",
        tables=("scales",),
        remedy="record it with --probes scales",
        draw=_over_steps("scales", "scales", "Learned scales", scale_courses, scales_over_steps),
    ),
    RunsKind(
        "scores over steps",
        "Largest attention scores",
        "The largest score of each head, layer by layer; dashed where only an upper bound is "
        "known. The first seed of each architecture.",
        tables=("scores",),
        remedy="record it with --probes scores",
        draw=_over_steps("scores", "scores", "Attention scores", score_courses, scores_over_steps),
    ),
    RunsKind(
        "states by depth",
        "Hidden states by depth",
        "What each layer gives: its variance, the mean cosine between two tokens of a sequence "
        "(1 is collapse), its linear CKA with what the layer was given, and branch over skip in "
        "its first and last residual sum; and how far what it is given moves between two recorded "
        "steps, the median, in its spread. The first seed of each architecture.",
        tables=("hidden",),
        remedy="record it with --probes hidden",
        draw=draw_states,
    ),
    RunsKind(
        "entropy over steps",
        "Attention entropy",
        "The entropy of each head's attention over that of uniform attention, the mean over "
        "queries: 1 is uniform, 0 all on one token. The first seed of each architecture.",
        tables=("entropy",),
        remedy="record it with --probes entropy",
        draw=_over_steps(
            "entropy", "entropy", "Attention entropy", entropy_courses, entropy_over_steps
        ),
    ),
)
"""Every figure that needs no more than one run, in the order of a page."""
