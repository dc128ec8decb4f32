"""`gradlab report`: runs as one page that one person can send another."""

from gradlab.cli.command import takes
from gradlab.cli.command_options import ReportOptions
from gradlab.cli.screen import output

EXAMPLES = """\
Examples:

gradlab report studies/nano --out nano.html

gradlab report runs/mine runs/other --out both.html --force"""


@takes(ReportOptions)
def report(options: ReportOptions) -> None:
    """Write what runs say as one HTML file that needs nothing else.

    How each run ended, the figures that the runs' tables allow, tables that sort, the settings
    side by side with their differences marked, and the commands, versions and text to repeat
    them. Runs that do not compare stand apart. What cannot be read is said on the page, and
    the rest is made all the same.
    """
    from gradlab.cli.train_line import train_line
    from gradlab.pages.report import report as write_report

    gathered = write_report(
        options.runs, out=options.out, force=options.force, train_line=train_line
    )
    console = output()
    for note in gathered.notes:
        console.print(note)
    count = len(gathered.runs)
    console.print(f"In {options.out}: {count} run{'s' if count > 1 else ''}.")
