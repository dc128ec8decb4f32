"""Which runs stand in one figure together, and what is said about the others."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gradlab.analyses.comparable import comparable_groups, name_of, run_key, what_differs
from gradlab.config import BASE_VARIANT
from gradlab.errors import GradlabError
from gradlab.figures.kind import RunsKind
from gradlab.models.presets import ARCHITECTURES
from gradlab.probe_names import PROBES
from gradlab.runs.reader import Run

_PROBE_OF = {facts.tables[0]: f"gradlab.probes.{facts.kind}" for facts in PROBES.values()}
"""Table → the probe that fills it."""


@dataclass(frozen=True)
class RunSet:
    """Runs of one figure.

    Attributes:
        runs: By architecture, the named ones first.
        suffix: Of the figure's name, `_nano_constant0.001`; empty if there is one set only.
    """

    runs: list[Run]
    suffix: str


def usable_runs(kind: RunsKind, runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """The runs that a kind of figure can be made of, and a sentence about the others."""
    usable = []
    reasons: dict[str, list[str]] = {}
    for run in runs:
        reason = _reason(kind, run)
        if reason is None:
            usable.append(run)
        else:
            reasons.setdefault(reason, []).append(name_of(run))
    unbroken = [run for run in usable if run.verdict is None or not run.verdict.broke]
    if kind.one_step and unbroken:
        reason = "it destabilised, which would bring the step that is shown down to its last"
        broke = [name_of(run) for run in usable if run not in unbroken]
        reasons |= {reason: broke} if broke else {}
        usable = unbroken
    if not usable:
        return [], [_nothing(kind, runs, reasons)]
    return usable, [
        f"{kind.title} leaves out {_listed(names)}: {reason}." for reason, names in reasons.items()
    ]


def _reason(kind: RunsKind, run: Run) -> str | None:
    """Why a run cannot be in a figure; None if it can."""
    for table in kind.tables:
        if not _has(run, table):
            return f"it did not record the table {table}"
        try:
            rows = run.table(table, ["step"])
        except GradlabError as error:
            return str(error).rstrip(".")
        if rows.empty:
            return f"its table {table} has no rows: record it at more steps (--every)"
    return kind.lacks(run)


def _nothing(kind: RunsKind, runs: Sequence[Run], reasons: dict[str, list[str]]) -> str:
    """Why a figure cannot be made at all."""
    if not runs:
        return f"{kind.title} needs runs: their folders are not there."
    for table in kind.tables:
        if not any(_has(run, table) for run in runs):
            probe = _PROBE_OF.get(table) if all(run.attached for run in runs) else None
            remedy = probe and f"record it with gradlab.attach(…, probes=[…, {probe}()])"
            remedy = remedy or kind.remedy
            return f"{kind.title}{_NEEDS}{table}: {remedy}."
    causes = "; ".join(f"{reason} ({_listed(names)})" for reason, names in reasons.items())
    return f"{kind.title} was not made: {causes}."


def _has(run: Run, table: str) -> bool:
    """Whether it recorded the table, and not one of a user's own by that name."""
    return table in run.tables and table not in run.info.get("own_tables", {})


_NEEDS = " needs the table "


def says_need(sentence: str) -> bool:
    """Whether a sentence says that a figure needs a table, of which `told_once` makes fewer."""
    return _NEEDS in sentence


def told_once(sentences: Iterable[str]) -> list[str]:
    """The sentences, those of figures that need the same table as one."""
    figures: dict[str, list[str]] = {}
    for sentence in sentences:
        title, needs, rest = sentence.partition(_NEEDS)
        figures.setdefault(rest if needs else "", []).append(title if needs else sentence)
    others = figures.pop("", [])
    needed = [
        f"{titles[0]}{_NEEDS}{rest}"
        if len(titles) == 1
        else f"{', '.join(titles[:-1])} and {titles[-1]} need the table {rest}"
        for rest, titles in figures.items()
    ]
    return [*others, *needed]


def _listed(names: Sequence[str]) -> str:
    """Up to three names."""
    if len(names) <= 3:
        return ", ".join(names)
    return f"{', '.join(names[:2])} and {len(names) - 2} more"


def run_sets(kind: RunsKind, runs: Sequence[Run]) -> tuple[list[RunSet], list[str]]:
    """The runs in sets that compare, each run of one size, architecture and seed once.

    Returns:
        The sets, and a sentence if there are several or if runs are left out.
    """
    groups = comparable_groups(runs, free=kind.free)
    sentences = []
    if len(groups) > 1:
        word = what_differs(groups[0][0], groups[1][0], free=kind.free)
        sentences.append(
            f"{kind.title} comes {len(groups)} times: not all runs compare, as their {word} differ."
        )
    places = {arch: place for place, arch in enumerate(ARCHITECTURES)}
    sets = []
    for group, suffix in zip(groups, _suffixes(groups), strict=True):
        taken: dict[object, Run] = {}
        again = [name_of(run) for run in group if taken.setdefault(_key(kind, run), run) is not run]
        if again:
            sentences.append(
                f"{kind.title} leaves out {_listed(again)}: another run of the same architecture "
                "and seed is in it."
            )
        ordered = sorted(taken.values(), key=lambda run: places.get(run_key(run)[1], len(places)))
        sets.append(RunSet(ordered, suffix))
    return sets, sentences


def _key(kind: RunsKind, run: Run) -> object:
    """What a figure has one run of; of loops of the user's own it has all."""
    if run.attached:
        return id(run)
    return run_key(run), run.config.schedule.lr if kind.by_rate else None


def _suffixes(groups: Sequence[Sequence[Run]]) -> list[str]:
    """A name for each group: as little of what a run is as tells them apart, or a number.

    They are told apart in lower case too, as some file systems do.
    """
    if len(groups) < 2:
        return [""] * len(groups)
    names: list[str] = []
    for length in (1, 2, 3):
        names = [safe_name("_".join(_labels(group[0])[:length])) for group in groups]
        if len({name.lower() for name in names}) == len(names):
            return [f"_{name}" for name in names]
    return [f"_{name}_{place + 1}" for place, name in enumerate(names)]


def _labels(run: Run) -> list[str]:
    """Size, variant, rate and steps; of a loop of the user's own, the folder."""
    size, arch, _ = run_key(run)
    if run.attached:
        return [arch]
    schedule = run.config.schedule
    rate = schedule.lr_step if schedule.kind == "ramp" else schedule.lr
    variant = [run.config.variant] if run.config.variant != BASE_VARIANT else []
    return [size, *variant, f"{schedule.kind}{rate:g}", f"{run.config.steps}steps"]


def safe_name(name: str) -> str:
    """A name that any file system takes: letters, digits and ._+- of ASCII, not too long."""
    plain = re.sub(r"[^A-Za-z0-9._+-]+", "_", name).strip("._")
    return plain[:100] or "unnamed"
