"""Whether an architecture's lead outlasts other hyperparameters."""

from itertools import product
from typing import Any, ClassVar

from pydantic import Field

from gradlab.config import RunConfig
from gradlab.errors import ConfigError
from gradlab.models.config import ModelConfig
from gradlab.models.presets import BASELINE
from gradlab.settings import Names, size_at
from gradlab.studies.losses import OneRateStudy
from gradlab.studies.table import VARIANT_RUNS, StudyTable
from gradlab.studies.variant import VARIANTS, VARIED, Variant, read_variant


class Variants(OneRateStudy):
    """Architectures under several hyperparameters (`variants`): the paper's Table 5.

    `variant` has names of `gradlab.studies.variant.VARIANTS`, or variants of your own as
    `clip_norm=0.1,lr=0.5x`.
    """

    command_name: ClassVar[str] = "variants"
    kind: ClassVar[str] = "variants"
    table: ClassVar[StudyTable] = VARIANT_RUNS

    arch: Names = ("pre-ln", "normformer")
    """An architecture; repeat for more. Pre-LN is the baseline, or else the first."""
    variant: Names = tuple(VARIANTS)
    """By name, or your own as clip_norm=0.1,lr=0.5x (half of what the other options say); repeat
    for more."""
    warmup: int = Field(default=10, ge=0)
    """Steps of linear warm-up from 0."""

    def configs(self) -> list[RunConfig]:
        """Seeds × variants × architectures, in that order, each with its baseline's steps.

        The architectures of one variant and seed stand together, so that a study that is stopped
        has pairs.
        """
        self.check_equal()
        return [
            self._variant_run(variant, arch, seed)
            for seed, variant, arch in product(
                self.each_seed(), self.variants(), self.architectures()
            )
        ]

    def timed(self) -> list[list[RunConfig]]:
        """A group a variant, the baseline first."""
        return [
            [self._variant_run(variant, arch, 0) for arch in self.architectures()]
            for variant in self.variants()
        ]

    def variants(self) -> list[Variant]:
        """The variants, each once, in the order given.

        Raises:
            ConfigError: One is unknown or cannot be read.
        """
        given = self._varied()
        variants = (read_variant(words, given) for words in self.variant)
        return list({variant.name: variant for variant in variants}.values())

    def architectures(self) -> list[str]:
        """The architectures, each once: the baseline (Pre-LN, or else the first) before others."""
        return sorted(dict.fromkeys(self.arch), key=lambda arch: arch != BASELINE)

    def _varied(self) -> dict[str, Any]:
        """What the settings that variants change are without them; the model's as its size says."""
        model = self.model_of(self.arch[0], size_at(self.size, self.width))
        return {
            name: getattr(model if name in ModelConfig.model_fields else self, name)
            for name in VARIED
        }

    def _variant_run(self, variant: Variant, arch: str, seed: int) -> RunConfig:
        try:
            changed = self.replace(**variant.changes)
            return changed.run(arch, changed.lr, seed, variant.name)
        except ConfigError as error:
            if not variant.changes:
                raise
            raise ConfigError(f"variant {variant.name}: {error}") from None
