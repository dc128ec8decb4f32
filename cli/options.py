"""What the commands can be told: dataclasses whose fields are options, declared once.

A field's name is the option's with underscores, and the key in a `--config` file. Where a field
of `gradlab.config` has the same name, the option sets that field. A model option that is not
given leaves what the architecture and the size say.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from gradlab.cli.config_file import apply_config_file


def option(help: str, *names: str, panel: str | None = None, metavar: str | None = None) -> Any:
    """An option's declaration, in a panel of the help."""
    return typer.Option(*names, help=help, rich_help_panel=panel, metavar=metavar)


def switch(help: str, name: str, panel: str) -> Any:
    """The declaration of an option that is on, off, or left to the architecture."""
    return option(help, f"--{name}/--no-{name}", panel=panel)


MODEL = "The model: what overrides the architecture and the size"
OPTIMIZER = "The optimizer"
PRECISION = "Number formats"
STABILITY = "When a run counts as destabilised"
DATA = "The text"
RECORD = "What is recorded"


@dataclass(frozen=True, kw_only=True)
class ConfigOption:
    """The file that sets options."""

    config: Annotated[
        Path | None,
        typer.Option(
            help="A TOML file of options by name (lr_step = 2e-4), or a run's run.json. Options "
            "given here on the command line win.",
            metavar="FILE",
            is_eager=True,
            callback=apply_config_file,
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class ModelOptions(ConfigOption):
    """The switches of `ModelConfig`; None is what the architecture and the size say."""

    n_layers: Annotated[int | None, option("Blocks.", panel=MODEL)] = None
    n_heads: Annotated[int | None, option("Attention heads; divides the width.", panel=MODEL)] = (
        None
    )
    d_ff: Annotated[int | None, option("Inner width of the FFN.", panel=MODEL)] = None
    vocab_size: Annotated[int | None, option("Token ids.", panel=MODEL)] = None
    max_seq_len: Annotated[int | None, option("Tokens of a sequence.", panel=MODEL)] = None
    placement: Annotated[
        str | None, option("Where the norms stand: pre, post.", panel=MODEL, metavar="KIND")
    ] = None
    norm: Annotated[
        str | None, option("Kind of norm: layernorm, rmsnorm.", panel=MODEL, metavar="KIND")
    ] = None
    head_scale: Annotated[
        str | None,
        option(
            "A learned scale a head: none, heads (before the output projection, as in the "
            "paper), output (after it, as in the published code).",
            panel=MODEL,
            metavar="KIND",
        ),
    ] = None
    attn_out_norm: Annotated[
        bool | None, switch("A norm on the attention's output.", "attn-out-norm", MODEL)
    ] = None
    ffn_mid_norm: Annotated[
        bool | None, switch("A norm after the FFN's activation.", "ffn-mid-norm", MODEL)
    ] = None
    qkv_norm: Annotated[
        bool | None, switch("Norms on the queries, keys and values.", "qkv-norm", MODEL)
    ] = None
    res_scale: Annotated[
        str | None,
        option(
            "A learned λ on the residual: none, ffn, both, ffn-scalar, both-scalar.",
            panel=MODEL,
            metavar="KIND",
        ),
    ] = None
    activation: Annotated[
        str | None, option("Of the FFN: gelu, relu2, geglu.", panel=MODEL, metavar="KIND")
    ] = None
    positions: Annotated[
        str | None, option("Positions: sinusoidal, learned.", panel=MODEL, metavar="KIND")
    ] = None
    dropout: Annotated[float | None, option("Dropout; 0 unless given.", panel=MODEL)] = None
    attention: Annotated[
        str | None,
        option(
            "materialised (unless given): the scores are a tensor that can overflow, as in the "
            "paper; sdpa: a fused kernel keeps them in fp32.",
            panel=MODEL,
            metavar="KIND",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class RunOptions(ModelOptions):
    """What every command that trains can be told."""

    batch_size: Annotated[int, option("Sequences a batch.")] = 8
    accumulation: Annotated[int, option("Batches whose gradients one step sums.")] = 1
    device: Annotated[
        str,
        option(
            "Where to train: auto, cpu, cuda, cuda:N; auto takes CUDA where there is one.",
            metavar="NAME",
        ),
    ] = "auto"

    beta1: Annotated[float, option("Adam's β1.", panel=OPTIMIZER)] = 0.9
    beta2: Annotated[float, option("Adam's β2.", panel=OPTIMIZER)] = 0.98
    eps: Annotated[float, option("Adam's ε.", panel=OPTIMIZER)] = 1e-8
    weight_decay: Annotated[float, option("Decoupled, on everything.", panel=OPTIMIZER)] = 0.01
    clip_norm: Annotated[
        float | None, option("Gradient norm to clip at; no clipping unless given.", panel=OPTIMIZER)
    ] = None

    master_weights: Annotated[
        bool,
        option(
            "fp16-pure: keep fp32 copies of the weights, or round them after each update.",
            "--master-weights/--no-master-weights",
            panel=PRECISION,
        ),
    ] = True
    initial_loss_scale: Annotated[
        float, option("Where fp16's dynamic loss scale starts.", panel=PRECISION)
    ] = 2.0**16
    growth_factor: Annotated[float, option("Its growth.", panel=PRECISION)] = 2.0
    backoff_factor: Annotated[float, option("Its change at an overflow.", panel=PRECISION)] = 0.5
    growth_interval: Annotated[
        int, option("Good steps in a row before it grows.", panel=PRECISION)
    ] = 2000

    patience: Annotated[
        int, option("Steps in a row with a non-finite loss or gradient.", panel=STABILITY)
    ] = 10
    margin: Annotated[
        float,
        option("Nats that the loss's moving average is above its lowest.", panel=STABILITY),
    ] = 1.5
    ema_decay: Annotated[float, option("Decay of that average.", panel=STABILITY)] = 0.9
    loss_scale_floor: Annotated[
        float, option("The loss scale below which fairseq gives up.", panel=STABILITY)
    ] = 1e-4

    corpus: Annotated[
        str,
        option(
            "python-stdlib (needs no download), a text file or folder, a .bin token file or a "
            "folder of them, or hf:NAME.",
            panel=DATA,
        ),
    ] = "python-stdlib"
    tokenizer: Annotated[
        str | None, option("A tokenizer's name or file; bytes unless given.", panel=DATA)
    ] = None
    held_out: Annotated[float, option("Share kept for validation.", panel=DATA)] = 0.05

    probes: Annotated[
        list[str],
        option(
            "What to measure inside the model: headroom, grad_norms, scales, scores, optimizer, "
            "or none; repeat for more.",
            panel=RECORD,
            metavar="NAME",
        ),
    ] = field(default_factory=lambda: ["headroom"])
    every: Annotated[
        int,
        option("Steps between two looks, or two rows of a site away from overflows.", panel=RECORD),
    ] = 10
    window: Annotated[int, option("Steps between two writes.", panel=RECORD)] = 50


@dataclass(frozen=True, kw_only=True)
class SeveralRuns:
    """How several runs are gone about."""

    seeds: Annotated[int, option("Seeds 0 to N-1.", metavar="N")] = 3
    jobs: Annotated[
        int | None, option("Runs at the same time; a core each by default, one on CUDA.")
    ] = None
    resume: Annotated[
        bool,
        option("Go on with the study in the folder: finished runs are kept.", "--resume"),
    ] = False


@dataclass(frozen=True, kw_only=True)
class StudyOptions(SeveralRuns, RunOptions):
    """What every study of several runs can be told."""
