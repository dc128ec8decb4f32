"""The kinds of figures that show runs step by step, of any loop."""

from collections.abc import Iterator, Sequence

from gradlab.analyses.comparable import run_keys, seed_of
from gradlab.analyses.course import course, course_events
from gradlab.analyses.headroom import tightest_by_layer
from gradlab.figures.course import Break, course_panels
from gradlab.figures.headroom import Road, headroom_panels
from gradlab.figures.kind import AS_USUAL, Choices, Drawing, RunsKind
from gradlab.figures.style import looks
from gradlab.runs.reader import Run


def draw_course(runs: Sequence[Run], _: Choices = AS_USUAL) -> Iterator[Drawing]:
    """Loss, learning rate and loss scale, and what happened on the way."""
    breaks = [
        Break(arch, run.verdict.step)
        for run, (_size, arch, _seed) in zip(runs, run_keys(runs), strict=True)
        if run.verdict is not None and run.verdict.broke and run.verdict.step is not None
    ]
    yield Drawing("course", course_panels(course(runs), course_events(runs), breaks))


def draw_headroom(runs: Sequence[Run], _: Choices = AS_USUAL) -> Iterator[Drawing]:
    """The way to an overflow, a panel for the first seed of each architecture."""
    roads: dict[str, Road] = {}
    keys = run_keys(runs)
    labels = looks(arch for _size, arch, _seed in keys)
    for run, (_size, arch, _seed) in zip(runs, keys, strict=True):
        title = labels[arch].label
        if title in roads:
            continue
        tightest = tightest_by_layer(run.table("headroom"), run.table("steps", ["step", "lr"]))
        verdict = run.verdict
        end = (verdict.lr, verdict.step) if verdict is not None and verdict.broke else (None, None)
        roads[title] = Road(tightest, *end, seed=seed_of(run))
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
        "fewer. The vertical line is the break. The first seed of each architecture.",
        tables=("headroom", "steps"),
        remedy="record it with --probes headroom",
        draw=draw_headroom,
    ),
)
"""Every figure that needs no more than one run, in the order of a page."""
