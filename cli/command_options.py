"""The options of each command: its own, beside those that it shares (`gradlab.cli.options`)."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from gradlab.cli.options import RECORD, ModelOptions, RunOptions, StudyOptions, option


@dataclass(frozen=True, kw_only=True)
class StabilityOptions(StudyOptions):
    """`gradlab run-stability`."""

    arch: Annotated[list[str], option("An architecture; repeat for more.", metavar="NAME")] = field(
        default_factory=lambda: ["pre-ln", "normformer", "normformer-resscale"]
    )
    size: Annotated[
        list[str],
        option(
            "A named size (gradlab sizes lists them); repeat for more. nano-d128 is nano at "
            "width 128."
        ),
    ] = field(default_factory=lambda: ["nano"])
    width: Annotated[
        list[int], option("Take each size at this width; repeat for more.", metavar="D")
    ] = field(default_factory=list)
    lr_step: Annotated[
        list[float],
        option(
            "Rise of the learning rate at each step; repeat for more: the answer depends on it."
        ),
    ] = field(default_factory=lambda: [5e-5])
    steps: Annotated[
        int | None,
        option(
            "Cap on steps, where a run that has not broken is censored. By default 4000 at "
            "nano and micro, 3000 at mini, 2000 from 125M on."
        ),
    ] = None
    precision: Annotated[
        str,
        option(
            "Number formats: auto, fp32, bf16, fp16, fp16-pure; auto is fp16, emulated on a CPU.",
            metavar="NAME",
        ),
    ] = "auto"
    out: Annotated[
        Path | None,
        option("The study's folder; studies/stability-SIZES by default."),
    ] = None


@dataclass(frozen=True, kw_only=True)
class GradNormsOptions(StudyOptions):
    """`gradlab grad-norms`."""

    arch: Annotated[list[str], option("An architecture; repeat for more.", metavar="NAME")] = field(
        default_factory=lambda: ["post-ln", "pre-ln", "normformer"]
    )
    size: Annotated[
        str, option("A named size; nano-d128 is nano at width 128.", metavar="NAME")
    ] = "micro"
    width: Annotated[int | None, option("Take the size at this width.")] = None
    steps: Annotated[int, option("Steps to take.")] = 300
    lr: Annotated[float, option("Learning rate after the warm-up.")] = 1e-3
    warmup: Annotated[int, option("Steps of linear warm-up from 0.")] = 100
    average: Annotated[
        int,
        option(
            "Steps that each window averages: the first after the warm-up, and the last. Another "
            "number with --resume looks at the same runs again."
        ),
    ] = 50
    probes: Annotated[
        list[str],
        option(
            "What to measure beside the gradients: headroom, scales, scores, optimizer; repeat "
            "for more.",
            panel=RECORD,
            metavar="NAME",
        ),
    ] = field(default_factory=lambda: ["grad_norms"])
    every: Annotated[int, option("Steps between two looks.", panel=RECORD)] = 1
    precision: Annotated[
        str,
        option("Number formats: auto, fp32, bf16, fp16, fp16-pure; auto is fp32.", metavar="NAME"),
    ] = "auto"
    out: Annotated[
        Path | None, option("The study's folder; studies/gradients-SIZE by default.")
    ] = None


@dataclass(frozen=True, kw_only=True)
class TrainOptions(RunOptions):
    """`gradlab train`."""

    arch: Annotated[str, option("The architecture.", metavar="NAME")] = "pre-ln"
    size: Annotated[
        str, option("A named size; nano-d128 is nano at width 128.", metavar="NAME")
    ] = "nano"
    width: Annotated[int | None, option("Take the size at this width.")] = None
    seed: Annotated[int, option("Of the initial values and the batches.")] = 0
    steps: Annotated[int, option("Steps to take.")] = 1000
    lr: Annotated[float | None, option("Peak learning rate; 1e-3 unless given.")] = None
    schedule: Annotated[
        str,
        option(
            "What follows the warm-up: constant, linear, cosine; or ramp, which rises by --lr-step "
            "at each step.",
            metavar="KIND",
        ),
    ] = "constant"
    warmup: Annotated[int, option("Steps of linear warm-up from 0.")] = 0
    lr_step: Annotated[float | None, option("The ramp's rise at each step.")] = None
    val_every: Annotated[
        int,
        option("Steps between two validations; one comes after the last step too. 0 for none."),
    ] = 0
    val_batches: Annotated[int, option("Batches of a validation.")] = 8
    precision: Annotated[
        str,
        option(
            "Number formats: auto, fp32, bf16, fp16, fp16-pure; auto is fp32 on a CPU, "
            "bf16 on CUDA.",
            metavar="NAME",
        ),
    ] = "auto"
    keep_going: Annotated[
        bool, option("Train on after the run has destabilised.", "--keep-going")
    ] = False
    out: Annotated[
        Path | None, option("The run's folder; runs/SIZE_ARCH_SCHEDULE_SEED by default.")
    ] = None


@dataclass(frozen=True, kw_only=True)
class InspectOptions:
    """`gradlab inspect`."""

    run: Annotated[Path, typer.Argument(help="The run's folder, or its run.json.", metavar="RUN")]
    top: Annotated[
        int, typer.Option(help="Rows of the tables that list the worst.", metavar="N", min=1)
    ] = 5


@dataclass(frozen=True, kw_only=True)
class FiguresOptions:
    """`gradlab figures`."""

    runs: Annotated[
        list[Path],
        typer.Argument(help="Folders of runs, or of studies.", metavar="RUN", show_default=False),
    ]
    out: Annotated[
        Path | None, option("Folder of the pictures; figures in the first RUN by default.")
    ] = None
    formats: Annotated[
        list[str], option("png, pdf or svg; repeat for more.", "--format", metavar="KIND")
    ] = field(default_factory=lambda: ["png", "pdf"])
    baseline: Annotated[
        str | None,
        option("What figures 2 and 7 compare with; pre-ln, or else the first.", metavar="ARCH"),
    ] = None
    compute: Annotated[
        str,
        option(
            "What figure 2 counts: flops (leaves out norms), seconds (as it was measured), tokens."
        ),
    ] = "flops"
    average: Annotated[
        int | None,
        option(
            "Steps of the windows of figures 3 and 7; as many as the study was told, or else 50, "
            "or as many as there is room for."
        ),
    ] = None
    force: Annotated[
        bool, option("Write into a folder that is there, over files of the same names.", "--force")
    ] = False


@dataclass(frozen=True, kw_only=True)
class SizesOptions(ModelOptions):
    """`gradlab sizes`."""

    arch: Annotated[list[str], option("An architecture; repeat for more.", metavar="NAME")] = field(
        default_factory=lambda: ["pre-ln", "normformer", "normformer-resscale"]
    )
    size: Annotated[
        list[str], option("A size; repeat for more. All by default.", metavar="NAME")
    ] = field(default_factory=list)
    width: Annotated[
        list[int], option("Take each size at this width; repeat for more.", metavar="D")
    ] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """`gradlab report`."""

    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Folders of runs, or of studies.", metavar="RUN...", show_default=False
        ),
    ]
    out: Annotated[Path, typer.Option(help="The file.", metavar="FILE")] = Path("report.html")
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file if it is there.")] = (
        False
    )


@dataclass(frozen=True, kw_only=True)
class BlocksOptions(ModelOptions):
    """`gradlab blocks`."""

    arch: Annotated[list[str], option("An architecture; repeat for more.", metavar="NAME")] = field(
        default_factory=lambda: ["post-ln", "pre-ln", "normformer"]
    )
    size: Annotated[
        str, option("A named size; nano-d128 is nano at width 128.", metavar="NAME")
    ] = "125M"
    out: Annotated[
        Path, option("The picture: .png, .pdf or .svg by its ending.", metavar="FILE")
    ] = Path("blocks.pdf")
    force: Annotated[bool, option("Overwrite the file if it is there.", "--force")] = False
