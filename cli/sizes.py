"""`gradlab sizes`: the named sizes and what they cost."""

from collections.abc import Iterator

from rich.table import Table

from gradlab.cli.command import takes
from gradlab.cli.command_options import SizesOptions
from gradlab.cli.screen import output

EXAMPLES = """\
Examples:

gradlab sizes

gradlab sizes --size 125M --arch pre-ln --activation geglu

gradlab sizes --size nano --width 128 --width 256"""

_HEADINGS = (
    "size",
    "architecture",
    "layers",
    "d_model",
    "heads",
    "tokens",
    "parameters",
    "FLOPs a token",
    "fp32 state",
    "fp16-pure",
)


@takes(SizesOptions)
def sizes(options: SizesOptions) -> None:
    """List the named sizes: layers, widths, exact parameters, FLOPs a token and memory.

    FLOPs are of training, forward and backward: 6 × the entries of all weight matrices (the tied
    output counts) + 12 × layers × d_model × tokens of a sequence for the attention scores. Memory
    is weights, gradients and Adam's two moments: 16 bytes a parameter in fp32 (bf16 and fp16 keep
    fp32 weights), 20 in fp16-pure, which holds fp16 copies beside the fp32 ones. Activations come
    on top.
    """
    table = Table(box=None, pad_edge=False, header_style="dim")
    for index, heading in enumerate(_HEADINGS):
        table.add_column(heading, justify="left" if index < 2 else "right", no_wrap=True)
    for row in size_rows(options):
        table.add_row(*row)
    output().print(table)


def size_rows(options: SizesOptions) -> Iterator[tuple[str, ...]]:
    """The table's rows, as text."""
    from gradlab.cli.plan import build_config, size_labels
    from gradlab.models.cost import flops_per_token, parameter_count, training_state_bytes
    from gradlab.models.presets import SIZES

    for size in size_labels(options.size or list(SIZES), options.width):
        for arch in dict.fromkeys(options.arch):
            config = build_config(options, arch, size)
            yield (
                size,
                arch,
                str(config.n_layers),
                str(config.d_model),
                str(config.n_heads),
                str(config.max_seq_len),
                f"{parameter_count(config):,}",
                f"{flops_per_token(config):.3g}",
                *(
                    memory_text(training_state_bytes(config, precision))
                    for precision in ("fp32", "fp16-pure")
                ),
            )


def memory_text(size: int) -> str:
    """Bytes in decimal units: 5.1 MB, 2.0 GB."""
    if size < 1e9:
        return f"{size / 1e6:.1f} MB"
    return f"{size / 1e9:.1f} GB"
