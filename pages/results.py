"""What a study found, as its command prints it and its page has it: tables and sentences."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

import pandas as pd

from gradlab.analyses import gradient_words, lr_search_words, stability_words
from gradlab.analyses.ablation import ablation_differences, in_rows, summarise_ablation
from gradlab.analyses.compute import summarise_shares
from gradlab.analyses.depth_scan import depth_scan, depth_sentences, layer_gradients
from gradlab.analyses.final_losses import final_losses
from gradlab.analyses.gradient_study import (
    mismatch_differences,
    study_gradients,
    study_mismatch,
    summarise_mismatch,
    window_length,
)
from gradlab.analyses.league import (
    league_differences,
    league_overflows,
    league_seeds,
    step_costs,
    summarise_league,
)
from gradlab.analyses.league_words import league_sentences
from gradlab.analyses.limits import (
    compare_limits,
    limit_sentences,
    limits,
    summarise_limits,
)
from gradlab.analyses.loss_words import ablation_sentences, variant_sentences
from gradlab.analyses.lr_search import (
    losses_by_rate,
    search_differences,
    search_seeds,
    summarise_search,
)
from gradlab.analyses.stability import (
    first_overflow_sites,
    paired_differences,
    summarise_stability,
)
from gradlab.analyses.stability_table import FAILURES, QUANTITIES, read_stability
from gradlab.analyses.steps_to import steps_of, steps_sentences
from gradlab.analyses.variants import summarise_variants, variant_differences, variant_losses
from gradlab.errors import GradlabError, unknown
from gradlab.pages.depth_table import depth_tables
from gradlab.pages.league_table import league_tables
from gradlab.pages.limit_table import limit_table
from gradlab.pages.loss_tables import ablation_tables, steps_table, variant_tables
from gradlab.pages.result_tables import mismatch_table, rate_tables, search_table, summary_tables
from gradlab.pages.table import Table
from gradlab.runs.command import Command
from gradlab.runs.study import StudyRecord, StudySet
from gradlab.studies.equal_time import with_times
from gradlab.studies.variants import Variants

if TYPE_CHECKING:
    from gradlab.figures.kind import Drawing

OP = "fc2"
"""The op of a study of gradients, as in the paper's figure 3; its files have all ops."""

SIDE_BY_SIDE = ("figure 3", "figure 4", "figure 6", "figure 7", "headroom")
"""The figures of such a study in which its architectures stand side by side, by what it recorded:
`gradlab figures` has those of each as well."""


@dataclass(frozen=True)
class Result:
    """What a study found.

    Attributes:
        tables: For a person.
        sentences: Likewise; the only thing where there is nothing to compare yet.
        in_words: What the tables say, for where they are not shown.
        files: The numbers, a CSV file each, by name.
        draw: Makes the figures; one for which the study has no data is left out.
    """

    tables: Sequence[Table] = ()
    sentences: Sequence[str] = ()
    files: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    draw: "Callable[[], Iterable[Drawing]]" = tuple
    in_words: Sequence[str] = ()


def study_result(study: StudyRecord, command: Command | None = None) -> Result:
    """What a study found, of the runs that have ended.

    Args:
        study: Finished or not.
        command: What makes it; what its file says if None.

    Raises:
        GradlabError: What made it is not known, or something in it is damaged.
    """
    command = command or study.command
    if command is None:
        raise GradlabError(f"{study.folder} does not say which study it is: name one of its runs.")
    if command.name not in _RESULTS:
        raise GradlabError(unknown("study", command.name, _RESULTS))
    return _RESULTS[command.name](study, command)


def _nothing(study: StudyRecord, what: str = "ended") -> Result:
    sentence = f"No run in {study.folder} has {what}: there is nothing to compare."
    return Result(sentences=[sentence])


def _none_ended(runs: pd.DataFrame) -> bool:
    return bool(runs["reason"].isin(FAILURES).all())


def _stability(study: StudyRecord, _: Command) -> Result:
    table = read_stability(study.folder)
    if _none_ended(table):
        return _nothing(study)
    differences = [paired_differences(table, value).assign(quantity=value) for value in QUANTITIES]
    files = {
        "summary": summarise_stability(table),
        "differences": pd.concat(differences, ignore_index=True),
        "first_overflows": first_overflow_sites(table),
    }

    def draw() -> "Iterator[Drawing]":
        from gradlab.figures.drawings import study_drawings

        yield from study_drawings(table, study.runs, note=lambda _: None)

    sentences = stability_words.difference_sentences(table)
    breaks = stability_words.break_sentences(table)
    return Result(summary_tables(table), sentences, files, draw, in_words=breaks)


def _gradients(study: StudyRecord, _: Command) -> Result:
    runs = [run for run in study.runs if run.completed]
    if not runs:
        return _nothing(study, "reached its last step")
    gradients = study_gradients(runs, length=window_length(runs))
    mismatches = study_mismatch(gradients)
    files = {
        "gradients": gradients,
        "mismatch": mismatches,
        "summary": summarise_mismatch(mismatches),
        "differences": mismatch_differences(mismatches),
    }
    configs = list(study.configs.values())
    table = mismatch_table(configs, gradients, files["summary"], op=OP)
    sentences = gradient_words.difference_sentences(files["differences"], op=OP)

    def draw() -> "Iterator[Drawing]":
        from gradlab.figures.drawings import drawings

        for drawn in drawings(study.runs, {}, note=lambda _: None, only=SIDE_BY_SIDE):
            yield drawn.drawing

    return Result([table], sentences, files, draw)


def _ablation(study: StudyRecord, _: Command) -> Result:
    losses = final_losses(study.runs, vary="steps")
    if _none_ended(losses):
        return _nothing(study)
    files = {
        "losses": losses,
        "summary": with_times(summarise_ablation(losses), study.notes),
        "differences": ablation_differences(losses),
    }
    configs = list(study.configs.values())
    tables = ablation_tables(configs, files["summary"], files["differences"])
    sentences = ablation_sentences(files["differences"])
    if len(steps := steps_of(study.runs)):
        files["steps_to_final"] = steps
        summary = in_rows(summarise_shares(steps))
        tables.append(steps_table(summary))
        sentences += steps_sentences(summary)
    return Result(tables, sentences, files)


def _variants(study: StudyRecord, command: Command) -> Result:
    losses = variant_losses(study.runs)
    if _none_ended(losses):
        return _nothing(study)
    settings = Variants(**command.options)
    baseline = settings.architectures()[0]
    # None of the baseline's has ended where the study was stopped early.
    pairs = losses if losses["arch"].eq(baseline).any() else losses.head(0)
    changes = {variant.name: variant.text for variant in settings.variants()}
    summary = summarise_variants(losses)
    summary.insert(1, "change", summary["variant"].map(changes))
    files = {
        "losses": losses,
        "summary": with_times(summary, study.notes),
        "differences": variant_differences(pairs, baseline=baseline),
    }
    configs = list(study.configs.values())
    tables = variant_tables(configs, files["summary"], files["differences"])
    return Result(tables, variant_sentences(files["differences"]), files)


def _lr_search(study: StudyRecord, _: Command) -> Result:
    losses = final_losses(study.runs, vary="lr")
    if _none_ended(losses):
        return _nothing(study)
    files = {
        "losses": losses,
        "rates": losses_by_rate(losses),
        "seeds": search_seeds(losses),
        "summary": with_times(summarise_search(losses), study.notes),
        "differences": search_differences(losses),
    }
    tables = rate_tables(list(study.configs.values()), files["rates"])
    sentences = lr_search_words.search_sentences(files["summary"], files["differences"])
    tables.append(search_table(files["summary"]))

    def draw() -> "Iterator[Drawing]":
        from gradlab.figures.kinds import draw_search

        if files["rates"]["runs"].any():
            yield from draw_search(study.runs)

    return Result(tables, sentences, files, draw)


def _limit(study: StudyRecord, _: Command) -> Result:
    table = limits(study)
    if table.empty:
        return _nothing(study)
    files = {
        "limits": table,
        "summary": summarise_limits(table),
        "differences": compare_limits(table),
    }
    sentences = limit_sentences(files["summary"], files["differences"])

    return Result([limit_table(files["summary"])], sentences, files, _drawn(study))


def _depth_scan(study: StudyRecord, _: Command) -> Result:
    table = depth_scan(study)
    if table.empty:
        return _nothing(study)
    files = {"depths": table, "layer_gradients": layer_gradients(study)}
    return Result(depth_tables(table), depth_sentences(table), files, _drawn(study))


def _drawn(study: StudyRecord) -> "Callable[[], Iterator[Drawing]]":
    """Makes the figures of a whole study."""

    def draw() -> "Iterator[Drawing]":
        from gradlab.figures.study_kinds import study_drawings

        return (drawing for _, drawing in study_drawings(study))

    return draw


def _league(league: StudyRecord, _: Command) -> Result:
    if not isinstance(league, StudySet):
        raise GradlabError(f"{league.folder} holds no league: its studies have folders in it.")
    seeds, sites = league_seeds(league), league_overflows(league)
    files = {
        "league": summarise_league(seeds, step_costs(league)),
        "seeds": seeds,
        "differences": league_differences(seeds),
        "first_overflows": sites,
    }
    if seeds.empty:
        return _nothing(league)

    tables = league_tables(files["league"], sites)
    return Result(tables, league_sentences(league), files, _drawn(league))


_RESULTS: Mapping[str, Callable[[StudyRecord, Command], Result]] = MappingProxyType(
    {
        "run-stability": _stability,
        "grad-norms": _gradients,
        "ablate": _ablation,
        "variants": _variants,
        "lr-search": _lr_search,
        "limit": _limit,
        "depth-scan": _depth_scan,
        "league": _league,
    }
)
"""By the command that makes the study."""
