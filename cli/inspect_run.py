"""`gradlab inspect`: what happened in a run."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from gradlab.cli.command import takes
from gradlab.cli.command_options import InspectOptions
from gradlab.cli.screen import Words, output, results_table

if TYPE_CHECKING:
    import pandas as pd

    from gradlab.analyses.finding import Finding

EXAMPLES = """\
Examples:

gradlab inspect runs/mine

gradlab inspect --top 10 studies/nano/nano_pre-ln_ramp0.0002_seed0"""

HEADINGS = {
    "at_end": "at the end",
    "at_last": "at the last",
    "change_bits": "change",
    "early_bits": "early",
    "early_ratio": "first / last early",
    "eps_frac": "below ε",
    "flipped": "flipped",
    "grew": "× start",
    "headroom_bits": "bits left",
    "late_bits": "late",
    "late_ratio": "late",
    "least_bits": "least bits",
    "loss_scale": "loss scale",
    "lr": "LR",
    "max_abs": "max |x|",
    "median_ratio": "median",
    "nonfinite": "not finite",
    "numel": "entries",
    "param": "parameter",
    "producer": "first overflow",
    "ratio": "largest",
}
"""Headings of the columns whose names would not do."""

_SHARES = {"share", "eps_frac", "at_end"}
_COURSE = {"step", "lr", "loss", "loss_scale"}


@takes(InspectOptions)
def inspect_run(options: InspectOptions) -> None:
    """Say what happened in a run.

    How it ended; the first overflow and what led to it; where FP16's range was tightest, and how
    that changed; losses and gradients that were not finite, skipped steps, the loss scale; the
    worst mismatch of gradients between layers; and what the recorded tables say of attention
    scores, learned scales and updates.

    A run of gradlab's loop or of gradlab.attach, finished or not.
    """
    from gradlab.analyses.findings import findings
    from gradlab.runs.reader import load

    run = load(options.run)
    show_findings(output(), findings(run, top=options.top))


def show_findings(console: Console, found: Sequence["Finding"]) -> None:
    """Print findings: a heading, its sentence, and the numbers."""
    width = max(len(finding.what) for finding in found)
    for finding in found:
        line = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
        line.add_column(width=width, no_wrap=True, style="bold")
        line.add_column(overflow="fold")
        line.add_row(finding.what, Text(finding.sentence))
        console.print(line)
        if finding.table is not None:
            by_step = finding.table.columns[0] == "step"
            made = course_table(finding.table) if by_step else numbers_table(finding.table)
            console.print(Padding(made, (0, 0, 1, 2)))


def numbers_table(rows: "pd.DataFrame") -> Table:
    """A finding's table, row by row."""
    made = results_table()
    for name in rows.columns:
        is_text = any(isinstance(value, str) for value in rows[name])
        made.add_column(
            HEADINGS.get(name, name),
            justify="left" if is_text else "right",
        )
    for row in rows.itertuples(index=False):
        cells = zip(rows.columns, row, strict=True)
        made.add_row(*(Words(cell_text(name, value)) for name, value in cells))
    return made


def course_table(rows: "pd.DataFrame") -> Table:
    """The course of some sites' headroom: its steps run across, as the sites' names are long."""
    from gradlab.analyses.finding import bits, figure

    made = results_table()
    made.add_column("step")
    for step in rows["step"]:
        made.add_column(str(step), justify="right", no_wrap=True)
    for name in rows.columns.drop("step"):
        write = figure if name in _COURSE else bits
        made.add_row(*(Words(text) for text in (HEADINGS.get(name, name), *map(write, rows[name]))))
    return made


def cell_text(column: str, value: Any) -> str:
    """A cell as text: shares in percent, headroom to a tenth of a bit, – where nothing is known."""
    import pandas as pd

    from gradlab.analyses.finding import bits, figure

    if isinstance(value, str):
        return value
    if pd.isna(value):
        return "–"
    if column in _SHARES:
        return f"{figure(100 * value)} %"
    return bits(value) if "bits" in column else figure(value)
