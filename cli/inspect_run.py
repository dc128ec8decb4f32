"""`gradlab inspect`: what happened in a run."""

from gradlab.cli.command import takes
from gradlab.cli.command_options import InspectOptions
from gradlab.cli.screen import output

EXAMPLES = """\
Examples:

gradlab inspect runs/mine

gradlab inspect --top 10 studies/nano/nano_pre-ln_ramp0.0002_seed0"""


@takes(InspectOptions)
def inspect_run(options: InspectOptions) -> None:
    """Say what happened in a run, or what a study found.

    How it ended; the first overflow and what led to it; where FP16's range was tightest, and how
    that changed; losses and gradients that were not finite, skipped steps, the loss scale; the
    worst mismatch of gradients between layers; and what the recorded tables say of attention
    scores, learned scales and updates.

    A run of gradlab's loop or of gradlab.attach, finished or not. Of a study, how its
    architectures differ, and what broke or was best.
    """
    from gradlab.pages.inspection import inspect

    output().print(inspect(options.run, top=options.top))
