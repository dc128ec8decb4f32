"""`gradlab sizes`: the named sizes and what they cost."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.table import Table

from gradlab.cli.terminal.screen import output, say_next
from gradlab.models.presets import SIZES, size_labels
from gradlab.settings import ModelSettings, Names, Widths, several

if TYPE_CHECKING:
    from gradlab.models.config import ModelConfig

EXAMPLES = """\
Examples:

gradlab sizes

gradlab sizes --size 125M --arch pre-ln --activation geglu

gradlab sizes --size nano --width 128 --width 256"""

_SHAPE = ("size", "layers", "d_model", "heads", "d_ff", "tokens")
_COST = ("size", "architecture", "parameters", "FLOPs a token", "fp32 state", "fp16-pure")


class Sizes(ModelSettings):
    """`gradlab sizes`."""

    arch: Names = ("pre-ln", "normformer", "normformer-resscale")
    """An architecture; repeat for more."""
    size: Names = ()
    """A size; repeat for more. All by default."""
    width: Widths = ()
    """Take each size at this width; repeat for more."""


def sizes(options: Sizes) -> None:
    """List the named sizes: layers, widths, exact parameters, FLOPs a token and memory.

    FLOPs are of training, forward and backward: 6 × the entries of all weight matrices (the tied
    output counts) + 12 × layers × d_model × tokens of a sequence for the attention scores. Memory
    is weights, gradients and Adam's two moments: 16 bytes a parameter in fp32 (bf16 and fp16 keep
    fp32 weights), 20 in fp16-pure, which holds fp16 copies beside the fp32 ones. Activations come
    on top. NormFormer's operations cost no products, but time and memory: docs/gpu.md and
    docs/speed.md have both.
    """
    configs = list(size_configs(options))
    shapes = dict.fromkeys((size, *shape_cells(config)) for size, _, config in configs)
    # Two tables, as one would be wider than a terminal.
    for headings, rows in (
        (_SHAPE, list(shapes)),
        (_COST, [(size, arch, *cost_cells(config)) for size, arch, config in configs]),
    ):
        table = Table(box=None, pad_edge=False, header_style="dim")
        for heading in headings:
            words = heading in ("size", "architecture")
            table.add_column(heading, justify="left" if words else "right", no_wrap=True)
        for row in rows:
            table.add_row(*row)
        output().print(table)
    say_next("gradlab", "train", "--size", configs[0][0])


def size_configs(options: Sizes) -> Iterator[tuple[str, str, "ModelConfig"]]:
    """Size, architecture and model of each row."""
    for size in size_labels(options.size or list(SIZES), several(options.width)):
        for arch in dict.fromkeys(options.arch):
            yield size, arch, options.model_of(arch, size)


def shape_cells(config: "ModelConfig") -> tuple[str, ...]:
    """What a size is, as text."""
    shape = (config.n_layers, config.d_model, config.n_heads, config.d_ff, config.max_seq_len)
    return tuple(str(number) for number in shape)


def cost_cells(config: "ModelConfig") -> tuple[str, ...]:
    """What a model of it costs, as text."""
    from gradlab.models.cost import flops_per_token, parameter_count, training_state_bytes

    memory = (training_state_bytes(config, precision) for precision in ("fp32", "fp16-pure"))
    return (
        f"{parameter_count(config):,}",
        f"{flops_per_token(config):.3g}",
        *(memory_text(size) for size in memory),
    )


def memory_text(size: int) -> str:
    """Bytes in decimal units: 5.1 MB, 2.0 GB."""
    if size < 1e9:
        return f"{size / 1e6:.1f} MB"
    return f"{size / 1e9:.1f} GB"
