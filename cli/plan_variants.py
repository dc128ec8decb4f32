"""From options to the runs of a study of hyperparameter variants."""

from itertools import product
from typing import Any

from gradlab.cli.loss_options import VariantsOptions
from gradlab.cli.plan import build_config, seeds_of
from gradlab.cli.plan_losses import check_equal, loss_run
from gradlab.cli.variant import VARIED, Variant, read_variant
from gradlab.config import ModelConfig, RunConfig
from gradlab.errors import ConfigError
from gradlab.models.presets import BASELINE, size_labels


def plan_variants(options: VariantsOptions) -> list[RunConfig]:
    """The runs of the study, each with its baseline's steps: seeds × variants × architectures.

    The architectures of one variant and seed stand together, so that a study that is stopped has
    pairs.

    Raises:
        ConfigError: An option has a value that is unknown, out of range, or does not fit others.
    """
    check_equal(options)
    return [
        _variant_run(options, variant, arch, seed)
        for seed, variant, arch in product(
            seeds_of(options.seeds), variants_of(options), architectures_of(options)
        )
    ]


def timed_variants(options: VariantsOptions) -> list[list[RunConfig]]:
    """The runs whose step is to be timed: a group a variant, the baseline first.

    Raises:
        ConfigError: As `plan_variants`.
    """
    return [
        [_variant_run(options, variant, arch, 0) for arch in architectures_of(options)]
        for variant in variants_of(options)
    ]


def variants_of(options: VariantsOptions) -> list[Variant]:
    """The variants asked for, each once, in the order asked for.

    Raises:
        ConfigError: One is unknown or cannot be read.
    """
    given = _given(options)
    variants = (read_variant(words, given) for words in options.variant)
    return list({variant.name: variant for variant in variants}.values())


def architectures_of(options: VariantsOptions) -> list[str]:
    """The architectures, each once: the baseline (Pre-LN, or else the first) before the others."""
    architectures = list(dict.fromkeys(options.arch))
    return sorted(architectures, key=lambda arch: arch != BASELINE)


def _given(options: VariantsOptions) -> dict[str, Any]:
    """What the options that variants change are without them; the model's as its size says."""
    (size,) = size_labels([options.size], [] if options.width is None else [options.width])
    model = build_config(options, options.arch[0], size)
    return {
        name: getattr(model if name in ModelConfig.model_fields else options, name)
        for name in VARIED
    }


def _variant_run(options: VariantsOptions, variant: Variant, arch: str, seed: int) -> RunConfig:
    changed = variant.of(options)
    try:
        return loss_run(changed, arch, changed.lr, seed, variant.name)
    except ConfigError as error:
        if not variant.changes:
            raise
        raise ConfigError(f"variant {variant.name}: {error}") from None
