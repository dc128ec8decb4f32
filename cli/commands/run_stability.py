"""`gradlab run-stability`: how high a learning rate each architecture survives."""

from gradlab.cli.options.command import Place
from gradlab.cli.terminal.study import make_study
from gradlab.studies.stability import Stability

EXAMPLES = """\
Examples:

gradlab run-stability --lr-step 2e-4

gradlab run-stability --width 64 --width 128 --seeds 5 --out studies/widths

gradlab run-stability --config studies/mine.toml --resume"""


def run_stability(study: Stability, place: Place) -> None:
    """Raise the learning rate at every step until training destabilises, and say what broke.

    The LR stability test of the NormFormer paper: lr(step) = step × lr-step, for every size,
    architecture and seed. Of each run it records the LR at the break, the LR at the lowest loss,
    the LR at which the model had become useless, and the place whose FP16 tensor overflowed
    first. A run that reaches its last step is censored: its break is higher.

    The result is a table with medians and ranges over seeds, the differences between
    architectures with 95 % intervals over paired seeds, and figure 5 of the paper. Ctrl-C stops;
    the same command with --resume goes on.
    """
    make_study(study, place)
