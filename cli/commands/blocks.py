"""`gradlab blocks`: one layer of each architecture as a diagram."""

from pathlib import Path

from gradlab.cli.terminal.screen import output, say_next
from gradlab.parallel.environment import refuse_several
from gradlab.settings import ModelSettings, Names, size_at

EXAMPLES = """\
Examples:

gradlab blocks --arch pre-ln --arch normformer --out blocks.pdf

gradlab blocks --arch pre-ln --attn-out-norm --res-scale both --out mine.svg"""


class Blocks(ModelSettings):
    """`gradlab blocks`."""

    arch: Names = ("post-ln", "pre-ln", "normformer")
    """An architecture; repeat for more."""
    size: str = "125M"
    """A size; nano-d128 is nano at width 128."""
    out: Path = Path("blocks.pdf")
    """The picture: .png, .pdf or .svg by its ending."""
    force: bool = False
    """Overwrite the file if it is there."""


def blocks(options: Blocks) -> None:
    """Draw one layer of each architecture side by side: figure 1 of the paper.

    Norms, attention, the feed-forward network and the residual stream as the switches say, with
    what plain Pre-LN and Post-LN lack marked.
    """
    import matplotlib as mpl

    mpl.use("agg")

    from gradlab.figures.blocks import block_panels
    from gradlab.figures.save import rendered
    from gradlab.figures.style import looks
    from gradlab.runs.output_file import check_free, write_file

    refuse_several("a diagram")
    check_free(options.out, force=options.force)
    size = size_at(options.size, None)
    configs = {
        look.label: options.model_of(arch, size) for arch, look in looks(options.arch).items()
    }
    content = rendered(block_panels(configs), options.out.suffix.removeprefix(".").lower())
    write_file(options.out, content)
    output().print(f"In {options.out}: {', '.join(configs)}.")
    say_next(
        "gradlab", "run-stability", *(word for arch in options.arch for word in ("--arch", arch))
    )
