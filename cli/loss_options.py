"""The options of the studies that compare losses."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from gradlab.cli.options import RECORD, StudyOptions, option
from gradlab.cli.variant import VARIANTS, VARIED


@dataclass(frozen=True, kw_only=True)
class LossStudyOptions(StudyOptions):
    """What each can be told."""

    size: Annotated[
        str, option("A named size; nano-d128 is nano at width 128.", metavar="NAME")
    ] = "nano"
    width: Annotated[int | None, option("Take the size at this width.")] = None
    schedule: Annotated[
        str, option("What follows the warm-up: constant, linear, cosine.", metavar="KIND")
    ] = "linear"
    warmup: Annotated[int, option("Steps of linear warm-up from 0.")] = 30
    val_every: Annotated[
        int,
        option(
            "Steps between two validations, for figure 2; 0 for the one after the last step alone."
        ),
    ] = 0
    val_batches: Annotated[int, option("Batches of a validation.")] = 64
    probes: Annotated[
        list[str],
        option(
            "What to measure inside the model beside the loss: headroom, grad_norms, scales, "
            "scores, optimizer, or none; repeat for more.",
            panel=RECORD,
            metavar="NAME",
        ),
    ] = field(default_factory=lambda: ["none"])
    precision: Annotated[
        str,
        option("Number formats: auto, fp32, bf16, fp16, fp16-pure; auto is fp32.", metavar="NAME"),
    ] = "auto"


@dataclass(frozen=True, kw_only=True)
class EqualOptions(LossStudyOptions):
    """What studies of rows with equal compute can be told."""

    equal: Annotated[
        str,
        option(
            "What is alike in what is compared: time, as measured on the device before the study "
            "begins, or steps.",
            metavar="WHAT",
        ),
    ] = "time"
    steps: Annotated[
        int,
        option("Steps of the baseline; at equal time the others take as many as fit in its time."),
    ] = 500
    lr: Annotated[float, option("Peak learning rate.")] = 3e-3


@dataclass(frozen=True, kw_only=True)
class AblateOptions(EqualOptions):
    """`gradlab ablate`."""

    row: Annotated[
        list[str],
        option(
            "A row of Table 4: normformer-resscale (all operations), minus-post-attn-ln, "
            "minus-ffn-ln, minus-head-scale, normformer (minus ResScale), plus-3-more-ln, pre-ln "
            "(the baseline); repeat for more. All by default.",
            metavar="NAME",
        ),
    ] = field(default_factory=list)
    out: Annotated[Path | None, option("The study's folder; studies/ablation-SIZE by default.")] = (
        None
    )


@dataclass(frozen=True, kw_only=True)
class VariantsOptions(EqualOptions):
    """`gradlab variants`."""

    arch: Annotated[
        list[str],
        option(
            "An architecture; repeat for more. Pre-LN is the baseline, or else the first.",
            metavar="NAME",
        ),
    ] = field(default_factory=lambda: ["pre-ln", "normformer"])
    variant: Annotated[
        list[str],
        option(
            f"A variant: {', '.join(VARIANTS)}, or one of your own as clip_norm=0.1,lr=0.5x (2x is "
            f"twice what the other options say), of {', '.join(VARIED)}; repeat for more. All "
            "named ones by default.",
            metavar="VARIANT",
        ),
    ] = field(default_factory=lambda: list(VARIANTS))
    warmup: Annotated[int, option("Steps of linear warm-up from 0.")] = 10
    out: Annotated[Path | None, option("The study's folder; studies/variants-SIZE by default.")] = (
        None
    )


@dataclass(frozen=True, kw_only=True)
class LrSearchOptions(LossStudyOptions):
    """`gradlab lr-search`."""

    arch: Annotated[list[str], option("An architecture; repeat for more.", metavar="NAME")] = field(
        default_factory=lambda: ["pre-ln", "normformer"]
    )
    lr: Annotated[
        list[float],
        option("A peak learning rate; repeat for more. By default eight, a factor of 2 apart."),
    ] = field(default_factory=lambda: [1e-3 * 2**power for power in range(8)])
    steps: Annotated[int, option("Steps of each run.")] = 300
    out: Annotated[
        Path | None, option("The study's folder; studies/lr-search-SIZE by default.")
    ] = None
