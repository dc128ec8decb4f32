"""The runs that a command is given."""

from pathlib import Path
from typing import Annotated

import typer

from gradlab.paths import as_path

OneRun = Annotated[
    Path, typer.Argument(help="The run's folder, or its run.json.", metavar="RUN", parser=as_path)
]

SeveralRuns = Annotated[
    list[Path],
    typer.Argument(
        help="Folders of runs, or of studies.", metavar="RUN", show_default=False, parser=as_path
    ),
]
