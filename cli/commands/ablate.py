"""`gradlab ablate`: what each operation of NormFormer is worth, at the same compute."""

from gradlab.cli.options.command import Place
from gradlab.cli.terminal.study import make_study
from gradlab.studies.losses import Ablation

EXAMPLES = """\
Examples:

gradlab ablate

gradlab ablate --size micro --steps 1000 --warmup 100 --seeds 5

gradlab ablate --equal steps --row minus-ffn-ln --row pre-ln"""


def ablate(study: Ablation, place: Place) -> None:
    """Take NormFormer's operations away one at a time: the NormFormer paper's Table 4.

    The rows are NormFormer with all operations (λ_resid among them), the same without
    the norm after the attention, without the norm in the FFN, without head scales, without
    λ_resid (ResScale), with norms on the queries, keys and values as well, and Pre-LN, the baseline
    without any.

    The rows have equal compute: before the study begins, the training steps of all rows are timed
    on this device, in turns, and each row takes as many steps as fit in the time of the
    baseline's. The times and steps are kept in the study's folder. With --equal steps all rows
    take the same number.

    The result is a table of the validation loss and perplexity after the last step, over seeds,
    with paired differences from all operations and from the baseline (95 % intervals), how many
    runs are behind each row and how many broke; the CSV files have more. With --val-every, also
    after which share of the baseline's steps each row has its final perplexity (Table 6). Ctrl-C
    stops; the same command with --resume goes on.
    """
    make_study(study, place)
