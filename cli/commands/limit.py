"""`gradlab limit`: the highest constant learning rate that each architecture survives."""

from gradlab.cli.options.command import Place
from gradlab.cli.terminal.study import make_study
from gradlab.studies.limit import Limit

EXAMPLES = """\
Examples:

gradlab limit

gradlab limit --arch pre-ln --arch deepnorm --seeds 5 --factor 1.1

gradlab limit --precision fp32 --steps 300 --out studies/limit-fp32"""


def limit(study: Limit, place: Place) -> None:
    """Find the highest constant learning rate that architectures survive, by bisection.

    Short runs, each at one learning rate, for every architecture and seed: where one survives, the
    next is at a higher rate, else at a lower one, until neighbours are found of which the lower was
    survived and the higher was not. A run survives that does not destabilise (as in the stability
    test) in its steps. Beside it, for the same architectures and seeds, the ramp of that test.

    The result is a table of both answers, their ratio between architectures with 95 % intervals
    over paired seeds, whether the two rank architectures alike, and a figure of one against the
    other. Bisection takes for granted that whoever survives a rate survives a lower one, which
    single runs near the limit may not. Ctrl-C stops; the same command with --resume goes on.
    """
    make_study(study, place)
