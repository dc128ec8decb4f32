"""`gradlab claims`: what the NormFormer paper says, as far as small models can tell."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from gradlab.cli.claims_studies import STUDIES
from gradlab.cli.command import takes
from gradlab.cli.options import ConfigOption, SeveralRuns, option
from gradlab.cli.screen import output

EXAMPLES = """\
Examples:

gradlab claims

gradlab claims --seeds 5 --out studies/claims-5

gradlab claims --only gradients --only scales

gradlab claims --resume"""


@dataclass(frozen=True, kw_only=True)
class ClaimsOptions(ConfigOption, SeveralRuns):
    """`gradlab claims`."""

    only: Annotated[
        list[str],
        option(
            f"A study to make: {', '.join(STUDIES)}; repeat for more. All by default. What lies in "
            "the folder of the others counts as well.",
            metavar="NAME",
        ),
    ] = field(default_factory=list)
    out: Annotated[Path, option("The folder of the studies, the table and the figures.")] = Path(
        "studies/claims"
    )


@takes(ClaimsOptions)
def claims(options: ClaimsOptions) -> None:
    """Test the NormFormer paper's claims on small models, with a verdict on each.

    Four studies are made one after another, each in a folder of its own and by its own command:
    gradients by layer at micro (grad-norms; figure 3 of the paper), learned scales and relative
    gradients at nano (grad-norms; figures 4, 6 and 7), the LR stability test at nano
    (run-stability; figure 5), and the ablations at nano, at equal time (ablate; table 4, figure 2).

    The result is a row a claim: a number with its 95 % interval over seeds, and whether the claim
    is seen (the interval lies wholly on its side), not seen (wholly on the other), or not
    distinguished. claims.csv has the rows, claims.md the same with the figures and the command of
    each study.

    It takes the better part of an hour on two cores. Ctrl-C stops, and leaves the rows of the
    studies that are finished; the same command with --resume goes on.
    """
    from gradlab.cli.plan import check_name
    from gradlab.training.study import check_folder

    for name in options.only:
        check_name("only", name, STUDIES)
    chosen = [study for study in STUDIES.values() if study.name in (options.only or STUDIES)]
    for study in chosen:
        check_folder(options.out / study.name, resume=options.resume)
    console = output()
    statuses = {0}  # as a shell has them
    for study in chosen:
        console.print(f"\n{study.line(options.out, seeds=options.seeds)}", soft_wrap=True)
        try:
            study.train(options.out, seeds=options.seeds, jobs=options.jobs, resume=options.resume)
        except typer.Exit as end:  # runs failed, or Ctrl-C
            statuses.add(end.exit_code)
        except KeyboardInterrupt:  # outside the training of runs
            statuses.add(_INTERRUPTED)
        if _INTERRUPTED in statuses:
            break
    show_result(options, figures=_INTERRUPTED not in statuses)
    if _INTERRUPTED in statuses:
        typer.echo("interrupted: gradlab claims goes on with --resume.", err=True)
    if any(statuses):
        raise typer.Exit(max(statuses))


_INTERRUPTED = 130


def show_result(options: ClaimsOptions, *, figures: bool) -> None:
    """Print the claims of all studies that are finished, and write their files."""
    from gradlab.analyses.claim import RULE, judge_all
    from gradlab.analyses.claims import CLAIMS
    from gradlab.cli.claims_report import claims_table, document, write_drawn
    from gradlab.cli.study_files import files_line, write_csvs
    from gradlab.runs.files import write_whole

    out = options.out
    out.mkdir(parents=True, exist_ok=True)  # Ctrl-C may have come before any study's folder
    studies = {name: study.read(out) for name, study in STUDIES.items()}
    table = judge_all(CLAIMS, studies)
    console = output()
    console.print(claims_table(table))
    console.print(f"{RULE}.")
    finished = [STUDIES[name] for name, read in studies.items() if not read.missing]
    drawn = write_drawn(finished, out, console.print) if figures else {}
    lines = {name: study.line(out, seeds=options.seeds) for name, study in STUDIES.items()}
    files = [*write_csvs({"claims": table}, out), out / "claims.md"]
    write_whole(files[-1], document(table, lines, drawn).encode())
    console.print(files_line(out, files, each="study"))
