"""What a study found, in sentences."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from gradlab.analyses import gradient_words, lr_search_words, stability_words
from gradlab.analyses.ablation import ablation_differences, in_rows
from gradlab.analyses.claim import judge_all
from gradlab.analyses.claim_studies import read_studies
from gradlab.analyses.claim_words import claim_sentences
from gradlab.analyses.claims import CLAIMS
from gradlab.analyses.depth_scan import depth_scan, depth_sentences
from gradlab.analyses.final_losses import final_losses
from gradlab.analyses.gradient_study import (
    mismatch_differences,
    study_gradients,
    study_mismatch,
    window_length,
)
from gradlab.analyses.league import is_league
from gradlab.analyses.league_words import league_sentences
from gradlab.analyses.limits import compare_limits, limit_sentences, limits, summarise_limits
from gradlab.analyses.loss_words import ablation_sentences, variant_sentences
from gradlab.analyses.lr_search import search_differences, summarise_search
from gradlab.analyses.stability_table import read_stability
from gradlab.analyses.steps_to import steps_of, steps_sentences, summarise_steps
from gradlab.analyses.variants import variant_differences, variant_losses
from gradlab.errors import GradlabError, unknown
from gradlab.runs.study import StudyRecord, StudySet


def study_sentences(study: StudyRecord) -> list[str]:
    """How a study's architectures differ, with intervals, and what broke or was best.

    Of several studies in one folder: what their league says, or the paper's claims with their
    verdicts.

    Args:
        study: Finished or not: the sentences are of the runs that have ended.

    Raises:
        GradlabError: What made it is not known, no two of its runs can be compared yet, or one is
            damaged.
    """
    command = study.command
    if isinstance(study, StudySet):
        sentences = league_sentences(study) if is_league(study) else _claims(study)
        return sentences or [f"{study.folder} says nothing yet: no two of its runs compare."]
    if command is None:
        raise GradlabError(f"{study.folder} does not say which study it is: name one of its runs.")
    if command.name not in _SENTENCES:
        raise GradlabError(unknown("study", command.name, _SENTENCES))
    sentences = _SENTENCES[command.name](study)
    if not sentences:
        raise GradlabError(
            f"{study.folder} says nothing yet: no two runs of one seed that compare have ended."
        )
    return sentences


def _claims(studies: StudySet) -> list[str]:
    found = read_studies(studies.folder)
    if not found:
        inside = [studies.folder / name for name in studies.studies]
        error = GradlabError(
            f"{studies.folder} holds studies, but none of the paper's claims: name one of them, as "
            f"{inside[0]}."
        )
        error.instead = inside
        raise error
    return claim_sentences(judge_all(CLAIMS, found))


def _stability(study: StudyRecord) -> list[str]:
    table = read_stability(study.folder)
    return stability_words.break_sentences(table) + stability_words.difference_sentences(table)


def _gradients(study: StudyRecord) -> list[str]:
    runs = [run for run in study.runs if run.completed]
    length = window_length(runs) if runs else 1
    mismatches = study_mismatch(study_gradients(runs, length=length))
    return gradient_words.difference_sentences(mismatch_differences(mismatches), op="fc2")


def _ablation(study: StudyRecord) -> list[str]:
    sentences = ablation_sentences(ablation_differences(final_losses(study.runs, vary="steps")))
    return sentences + steps_sentences(in_rows(summarise_steps(steps_of(study.runs))))


def _variants(study: StudyRecord) -> list[str]:
    losses = variant_losses(study.runs)
    baseline = next(iter(study.configs.values())).arch
    pairs = losses if losses["arch"].eq(baseline).any() else losses.head(0)
    return variant_sentences(variant_differences(pairs, baseline=baseline))


def _lr_search(study: StudyRecord) -> list[str]:
    losses = final_losses(study.runs, vary="lr")
    if losses.empty:
        return []
    return lr_search_words.search_sentences(summarise_search(losses), search_differences(losses))


def _limit(study: StudyRecord) -> list[str]:
    table = limits(study)
    return limit_sentences(summarise_limits(table), compare_limits(table))


_SENTENCES: Mapping[str, Callable[[StudyRecord], list[str]]] = MappingProxyType(
    {
        "run-stability": _stability,
        "grad-norms": _gradients,
        "ablate": _ablation,
        "variants": _variants,
        "lr-search": _lr_search,
        "limit": _limit,
        "depth-scan": lambda study: depth_sentences(depth_scan(study)),
    }
)
"""By the command that makes the study."""
