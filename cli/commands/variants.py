"""`gradlab variants`: whether an architecture's lead outlasts other hyperparameters."""

from gradlab.cli.options.command import Place
from gradlab.cli.terminal.study import make_study
from gradlab.studies.variants import Variants

EXAMPLES = """\
Examples:

gradlab variants

gradlab variants --variant base --variant longer-warmup --seeds 5

gradlab variants --variant base --variant clip_norm=0.1,lr=0.5x"""


def variants(study: Variants, place: Place) -> None:
    """Compare architectures under several hyperparameters: the paper's Table 5.

    A variant is the other options with something changed: base (nothing), longer-warmup (12 times
    as long), gpt3 (sequences twice as long, at twice the tokens, and dropout 0.1), grad-clip
    (gradients clipped at a norm of 0.1), dropout (0.1), half-lr and twice-lr, weight-decay (0.1).
    One of your own names the options that it changes, with values or multiples: --variant
    lr=0.5x,dropout=0.1. Every variant trains every architecture.

    Within a variant, compute is equal: before the study begins, the architectures' training steps
    are timed on this device, in turns, and each takes as many steps as fit in the time of the
    baseline's under that variant. With --equal steps all take the same number.

    The result is a table of the validation loss and perplexity after the last step, over seeds,
    with paired differences from the baseline of the same variant (95 % intervals); variants are not
    compared with each other. Ctrl-C stops; the same command with --resume goes on, with more
    variants or seeds too.
    """
    make_study(study, place)
