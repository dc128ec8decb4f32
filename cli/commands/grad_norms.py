"""`gradlab grad-norms`: how large each layer's gradients are, architecture against architecture."""

from gradlab.cli.options.command import Place
from gradlab.cli.terminal.study import make_study
from gradlab.studies.gradients import Gradients

EXAMPLES = """\
Examples:

gradlab grad-norms

gradlab grad-norms --arch pre-ln --arch normformer --seeds 5

gradlab grad-norms --size nano --steps 60 --warmup 20 --average 20"""


def grad_norms(study: Gradients, place: Place) -> None:
    """Train architectures from the same batches and compare the gradients of their layers.

    In Post-LN later layers have the larger gradients, in Pre-LN earlier ones; the NormFormer
    paper's remedy for this mismatch is what its figure 3 shows. Every run records the gradient of
    every parameter; two windows of steps are averaged, the first after the warm-up and the last of
    the run.

    The result is a table of the mismatch of the second FFN weight per architecture (the gradient
    L1 of the first two layers over that of the last two, and the slope over depth) with its spread
    over seeds, a sentence a pair of architectures with a 95 % interval, and figure 3 of the paper;
    the CSV files have every operation. Ctrl-C stops; the same command with --resume goes on.
    """
    from gradlab.analyses.gradients import windows_of

    windows_of(study.configs()[0], study.average)
    make_study(study, place)
