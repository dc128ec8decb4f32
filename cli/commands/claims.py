"""`gradlab claims`: what the NormFormer paper says, as far as small models can tell."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gradlab.cli.options.command import Place
from gradlab.cli.terminal.screen import output
from gradlab.cli.terminal.study import make_study, show_result
from gradlab.pages.screen import on_screen
from gradlab.studies.claims import Claims

if TYPE_CHECKING:
    import pandas as pd

    from gradlab.runs.study import StudyRecord

EXAMPLES = """\
Examples:

gradlab claims

gradlab claims --only gradients --only scales --seeds 5

gradlab claims --width 768 --only stability --beside studies/claims

gradlab claims --resume"""


class ClaimsPlace(Place):
    """Where the claims' studies are made, and what they are shown beside."""

    beside: tuple[Path, ...] = ()
    """A folder of claims that were judged before, as at another width: its claims.csv has a column
    before these; repeat for more."""


def claims(claims: Claims, place: ClaimsPlace) -> None:
    """Test the NormFormer paper's claims on small models, with a verdict on each.

    Four studies are made one after another, each in a folder of its own and as its own command
    makes it: gradients by layer at micro (grad-norms; figure 3 of the paper), learned scales and
    relative gradients at nano (grad-norms; figures 4, 6 and 7), the LR stability test at nano
    (run-stability; figure 5), and the ablations at nano, at equal time (ablate; table 4, figure 2).
    With --width all are at nano with that width.

    The result is a row a claim: a number with its 95 % interval over seeds, and whether the claim
    is seen (the interval lies wholly on its side), not seen (wholly on the other), or not
    distinguished. claims.csv has the rows, claims.md the same with the figures and the command of
    each study.

    It takes the better part of an hour on two cores, and with --width 768 most of a day: stability
    about 30 minutes, gradients 20 to 40, scales and ablation some hours each. Ctrl-C stops, and
    leaves the rows of the studies that are finished; the same command with --resume goes on.
    Studies that lie in the folder are taken as they are, with more seeds or architectures too,
    whether this command made them or their own.
    """
    out = place.out or claims.folder()
    before = _read_beside(place)
    make_study(
        claims,
        place.replace(out=out),
        lambda record, figures: show_claims(claims, record, figures, beside=before),
    )


def _read_beside(place: ClaimsPlace) -> "list[pd.DataFrame]":
    """Read before anything is trained: a mistake in their names is said at once."""
    if not place.beside:
        return []
    from gradlab.analyses.claim_sets import read_claims

    return [read_claims(folder) for folder in place.beside]


def show_claims(
    claims: Claims, record: "StudyRecord", figures: bool, *, beside: "Sequence[pd.DataFrame]"
) -> None:
    """Show what each study says that was to be made, then the claims; write their files."""
    from gradlab.analyses.claim import RULE, judge_all
    from gradlab.analyses.claim_sets import side_by_side
    from gradlab.analyses.claim_studies import read_studies
    from gradlab.analyses.claim_words import judged, not_begun, waiting
    from gradlab.analyses.claims import CLAIMS
    from gradlab.cli.terminal.study_files import files_line, write_csvs
    from gradlab.pages.claims import claims_table, document, write_drawn
    from gradlab.runs.files import write_whole
    from gradlab.runs.study import find_study

    console, out = output(), record.folder
    for name, study in claims.studies().items():
        made = find_study(out / name)
        if made and made.has_table:
            console.print(f"\n{name}", style="bold")
            show_result(made, figures, made.command or study.command())
    studies = read_studies(out)
    table = judge_all(CLAIMS, studies)
    shown = side_by_side([*beside, table]) if beside else table
    if len(judged(shown)):
        console.print(on_screen(claims_table(judged(shown))))
    for note in waiting(table):
        console.print(note)
    console.print(f"{RULE}.")
    finished = [name for name, read in studies.items() if not read.missing]
    drawn = write_drawn(finished, out, console.print) if figures else {}
    files = [*write_csvs({"claims": table}, out), out / "claims.md"]
    page = document(shown, claims.lines(out), drawn, not_begun(table))
    write_whole(files[-1], page.encode())
    console.print(files_line(out, files, each="study"))
