"""`gradlab lr-search`: the learning rate that suits each architecture, and how much it matters."""

from gradlab.cli.options.command import Place
from gradlab.cli.terminal.study import make_study
from gradlab.studies.losses import LrSearch

EXAMPLES = """\
Examples:

gradlab lr-search

gradlab lr-search --arch pre-ln --arch normformer --lr 3e-3 --lr 1e-2

gradlab lr-search --size micro --steps 1000 --warmup 100 --out studies/table-1"""


def lr_search(study: LrSearch, place: Place) -> None:
    """Train architectures at several learning rates and find the best of each.

    As for the NormFormer paper's Table 1. Every run is validated after its last step. LR
    sensitivity is that of Wortsman et al. (2023): the loss at each learning rate over the lowest of
    them, averaged over the rates; a run that diverged enters with its loss at initialisation, and
    so does one whose loss ended higher than that.

    The result is the loss at each rate, the best rate and the LR sensitivity of each architecture,
    over seeds, the differences between architectures with 95 % intervals over paired seeds, and a
    figure of loss against learning rate in which diverged runs are marked. Ctrl-C stops; the same
    command with --resume goes on.
    """
    make_study(study, place)
