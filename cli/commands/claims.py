"""`gradlab claims`: what the NormFormer paper says, as far as small models can tell."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from gradlab.cli.commands import ablate, grad_norms, run_stability
from gradlab.cli.options.command import Place
from gradlab.cli.terminal.screen import output
from gradlab.pages.screen import complain
from gradlab.studies.claims import Claims

EXAMPLES = """\
Examples:

gradlab claims

gradlab claims --seeds 5 --out studies/claims-5

gradlab claims --only gradients --only scales

gradlab claims --resume"""


def claims(claims: Claims, place: Place) -> None:
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
    from gradlab.studies.folder import check_folder

    out = place.out or Path("studies/claims")
    studies = claims.studies()
    for name in studies:
        check_folder(out / name, resume=place.resume)
    console = output()
    statuses = {0}  # as a shell has them
    for name, study in studies.items():
        console.print(f"\n{claims.lines(out)[name]}", soft_wrap=True)
        try:
            _COMMANDS[study.command_name](study, place.replace(out=out / name))
        except typer.Exit as end:  # runs failed, or Ctrl-C
            statuses.add(end.exit_code)
        except KeyboardInterrupt:  # outside the training of runs
            statuses.add(_INTERRUPTED)
        if _INTERRUPTED in statuses:
            break
    show_result(claims, out, figures=_INTERRUPTED not in statuses)
    if _INTERRUPTED in statuses:
        complain("interrupted: gradlab claims goes on with --resume.")
    if any(statuses):
        raise typer.Exit(max(statuses))


_COMMANDS: dict[str, Callable[[Any, Place], None]] = {
    "grad-norms": grad_norms.grad_norms,
    "run-stability": run_stability.run_stability,
    "ablate": ablate.ablate,
}

_INTERRUPTED = 130


def show_result(claims: Claims, out: Path, *, figures: bool) -> None:
    """Print the claims of all studies that are finished, and write their files."""
    from gradlab.analyses.claim import RULE, judge_all
    from gradlab.analyses.claim_studies import read_studies
    from gradlab.analyses.claims import CLAIMS
    from gradlab.cli.terminal.study_files import files_line, write_csvs
    from gradlab.pages.claims import claims_table, document, write_drawn
    from gradlab.runs.files import write_whole

    out.mkdir(parents=True, exist_ok=True)  # Ctrl-C may have come before any study's folder
    studies = read_studies(out)
    table = judge_all(CLAIMS, studies)
    console = output()
    console.print(claims_table(table))
    console.print(f"{RULE}.")
    finished = [name for name, read in studies.items() if not read.missing]
    drawn = write_drawn(finished, out, console.print) if figures else {}
    files = [*write_csvs({"claims": table}, out), out / "claims.md"]
    write_whole(files[-1], document(table, claims.lines(out), drawn).encode())
    console.print(files_line(out, files, each="study"))
