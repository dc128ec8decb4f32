"""`gradlab blocks`: one layer of each architecture as a diagram."""

from gradlab.cli.command import takes
from gradlab.cli.command_options import BlocksOptions
from gradlab.cli.screen import output

EXAMPLES = """\
Examples:

gradlab blocks --arch pre-ln --arch normformer --out blocks.pdf

gradlab blocks --arch pre-ln --attn-out-norm --res-scale both --out mine.svg"""


@takes(BlocksOptions)
def blocks(options: BlocksOptions) -> None:
    """Draw one layer of each architecture side by side: figure 1 of the paper.

    Norms, attention, the feed-forward network and the residual stream as the switches say, with
    what plain Pre-LN and Post-LN lack marked.
    """
    import matplotlib as mpl

    mpl.use("agg")

    from gradlab.cli.plan import build_config
    from gradlab.figures.blocks import block_panels
    from gradlab.figures.save import rendered
    from gradlab.figures.style import looks
    from gradlab.models.presets import size_labels
    from gradlab.runs.output_file import check_free, write_file

    check_free(options.out, force=options.force)
    (size,) = size_labels([options.size], [])
    configs = {
        look.label: build_config(options, arch, size) for arch, look in looks(options.arch).items()
    }
    content = rendered(block_panels(configs), options.out.suffix.removeprefix(".").lower())
    write_file(options.out, content)
    output().print(f"In {options.out}: {', '.join(configs)}.")
