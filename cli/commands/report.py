"""`gradlab report`: runs as one page that one person can send another."""

from pathlib import Path
from typing import Annotated

import typer

from gradlab.cli.options.runs import SeveralRuns
from gradlab.cli.terminal.screen import output, say_next
from gradlab.parallel.environment import refuse_several

EXAMPLES = """\
Examples:

gradlab report studies/nano --out nano.html

gradlab report runs/mine runs/other --out both.html --force"""


def report(
    runs: SeveralRuns,
    out: Annotated[Path, typer.Option(help="The file.", metavar="FILE")] = Path("report.html"),
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite the file if it is there.")
    ] = False,
) -> None:
    """Write what runs say as one HTML file that needs nothing else.

    How each run ended, the figures that the runs' tables allow, tables that sort, the settings
    side by side with their differences marked, and the commands, versions and text to repeat
    them. Runs that do not compare stand apart. What cannot be read is said on the page, and
    the rest is made all the same.
    """
    from gradlab.pages.report import report as write_report

    refuse_several("a report")
    gathered = write_report(runs, out=out, force=force)
    console = output()
    for note in gathered.notes:
        console.print(note)
    count = len(gathered.runs)
    console.print(f"In {out}: {count} run{'s' if count > 1 else ''}. Open it in any browser.")
    say_next("gradlab", "inspect", runs[0])
