"""`gradlab replay`: a run again from before its break."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gradlab.cli.options.runs import OneRun
from gradlab.cli.terminal.live import watching
from gradlab.cli.terminal.screen import output, say_next
from gradlab.errors import ConfigError
from gradlab.pages.screen import Screen, complain
from gradlab.runs.command import typed

if TYPE_CHECKING:
    from gradlab.training.progress import Progress

REPETITIONS = 5
"""Of each change that --explain tries."""

EXAMPLES = """\
Examples:

gradlab replay runs/mine

gradlab replay runs/mine --precision fp32

gradlab replay runs/mine --from 600 --lr-scale 0.5 --set clip_norm=0.1

gradlab replay runs/mine --explain --jobs 2"""


def replay(
    run: OneRun,
    from_step: Annotated[
        int | None,
        typer.Option(
            "--from", help="The first step; 50 before the break by default.", metavar="STEP"
        ),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="Go on in fp32, bf16, fp16 or fp16-pure.", metavar="NAME")
    ] = None,
    lr_scale: Annotated[
        float, typer.Option(help="Multiply the learning rate; a ramp goes on rising.", metavar="X")
    ] = 1.0,
    skip_batch: Annotated[
        bool, typer.Option("--skip-batch", help="Leave out the batch of the step that broke.")
    ] = False,
    settings: Annotated[
        list[str],
        typer.Option(
            "--set",
            help="Change an option of gradlab train: eps=1e-6; repeat for more.",
            metavar="KEY=VALUE",
        ),
    ] = [],  # noqa: B006
    probes: Annotated[
        list[str],
        typer.Option(help="What to measure at every step; repeat for more.", metavar="NAME"),
    ] = ["all"],  # noqa: B006
    beyond: Annotated[
        int, typer.Option(help="Steps after a break that count as survived.", metavar="N")
    ] = 50,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of what comes out; one in RUN by default.", metavar="DIR"),
    ] = None,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Try the standard changes, one at a time, each repeated."),
    ] = False,
    changes: Annotated[
        list[str],
        typer.Option(
            "--change",
            help="Of --explain: try this alone: fp32, half-lr, eps=1e-6; repeat for more.",
            metavar="NAME",
        ),
    ] = [],  # noqa: B006
    repetitions: Annotated[
        int, typer.Option(help="Of --explain: of each change.", metavar="N", min=1)
    ] = REPETITIONS,
    jobs: Annotated[
        int | None,
        typer.Option(help="Of --explain: at the same time; one a core by default.", metavar="N"),
    ] = None,
) -> None:
    """Go back before a run's break and make its steps again, with every probe at every step.

    Unchanged it is the same to the bit, which is checked and said; with something changed, whether
    and when it still breaks. With --explain, what removes the break. It begins with the newest
    snapshot before that step: a run that breaks keeps one.
    """
    from gradlab.replays.changes import read_settings
    from gradlab.replays.either import replay
    from gradlab.replays.replay import free_folder
    from gradlab.runs.document import RUN_FILE
    from gradlab.studies.news import Named, RunUpdate

    if explain:
        from gradlab.cli.terminal.explanation import make_explanation

        if precision or lr_scale != 1 or skip_batch or settings:
            raise ConfigError("--explain makes the changes itself: name others with --change.")
        if probes != ["all"]:
            raise ConfigError("--explain measures what it needs to: leave out --probes.")
        make_explanation(
            run,
            out,
            from_step=from_step,
            changes=changes,
            repetitions=repetitions,
            beyond=beyond,
            jobs=jobs,
        )
        return
    if changes or repetitions != REPETITIONS or jobs is not None:
        raise ConfigError("--change, --repetitions and --jobs go with --explain: add it.")
    place = out or free_folder(run)
    is_new = not (place / RUN_FILE).exists()
    try:
        with watching(Screen(stderr=True)) as tell:
            tell(Named(["replay"]))

            def report(news: "Progress") -> None:
                tell(RunUpdate("replay", "running", news))

            made = replay(
                run,
                from_step=from_step,
                precision=precision,
                lr_scale=lr_scale,
                skip_batch=skip_batch,
                set=read_settings(settings),
                probes=probes,
                beyond=beyond,
                out=place,
                progress=report,
            )
    except KeyboardInterrupt:
        if is_new and (place / RUN_FILE).exists():
            known = typed("gradlab", "inspect", place)
            complain(f"interrupted: `{known}` says what is known; a replay begins anew.")
        else:
            complain("interrupted before a step was made again: a replay begins anew.")
        raise typer.Exit(130) from None
    output().print(made.sentence)
    output().print(f"In {place}.", soft_wrap=True)
    say_next("gradlab", "inspect", place)
