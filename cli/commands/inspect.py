"""`gradlab inspect`: what happened in a run."""

from typing import Annotated

import typer

from gradlab.cli.options.runs import OneRun
from gradlab.cli.terminal.screen import output, say_next
from gradlab.pages.screen import complain
from gradlab.runs.command import typed

EXAMPLES = """\
Examples:

gradlab inspect runs/mine

gradlab inspect --top 10 studies/nano/nano_pre-ln_ramp0.0002_seed0

gradlab inspect runs/mine --follow"""


def inspect(
    run: OneRun,
    top: Annotated[
        int, typer.Option(help="Rows of the tables that list the worst.", metavar="N", min=1)
    ] = 5,
    follow: Annotated[
        bool,
        typer.Option("--follow", help="Go along with a run that is being written, to its end."),
    ] = False,
) -> None:
    """Say what happened in a run, or what a study found.

    How it ended; the first overflow and what led to it; where FP16's range was tightest, and how
    that changed; losses and gradients that were not finite, skipped steps, the loss scale; the
    worst mismatch of gradients between layers; and what the recorded tables say of attention
    scores, learned scales and updates.

    A run of gradlab's loop or of gradlab.attach, finished or not. Of a study, how its
    architectures differ, and what broke or was best.
    """
    from gradlab.pages import inspection

    if follow:
        from gradlab.cli.terminal.follow import follow as follow_run

        try:
            follow_run(run, output())
        except KeyboardInterrupt:
            known = typed("gradlab", "inspect", run)
            complain(f"stopped following: `{known}` says what is known so far.")
            raise typer.Exit(130) from None
    found = inspection.inspect(run, top=top)
    output().print(found)
    say_next("gradlab", "report" if found.run is None else "figures", run)
