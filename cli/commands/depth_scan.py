"""`gradlab depth-scan`: which depths of each architecture train."""

from gradlab.cli.options.command import Place
from gradlab.cli.terminal.study import make_study
from gradlab.studies.depth_scan import DepthScan

EXAMPLES = """\
Examples:

gradlab depth-scan

gradlab depth-scan --arch pre-ln --arch deepnorm --depth 100 --depth 200

gradlab depth-scan --stable --depth 12 --depth 50 --out studies/stable"""


def depth_scan(study: DepthScan, place: Place) -> None:
    """Train architectures at many depths, thin, with and without warm-up, and say which train.

    A run trains if it does not destabilise and the mean loss over its last tenth of steps is under
    the text's unigram entropy, which is what counting tokens gives. Of each: the gradient in its
    first and last layer at the first and the last step, how alike tokens have become in its last
    layer, and the time and memory of a step; with --stable, the highest learning rate survived.

    The result is a table by depth, a figure of where each architecture stops training, and one of
    gradients by layer at the first and the last step. Ctrl-C stops; the same command with --resume
    goes on.
    """
    make_study(study, place)
