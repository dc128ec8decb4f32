"""`gradlab export`: a run's model for another library."""

from pathlib import Path
from typing import Annotated

import typer

from gradlab.cli.options.runs import OneRun
from gradlab.cli.terminal.screen import output
from gradlab.parallel.environment import refuse_several

EXAMPLES = """\
Examples:

gradlab train --arch normformer --keep-weights --out runs/mine

gradlab export runs/mine --out mine

gradlab export runs/mine --to fairseq --out mine-fairseq"""


def export(
    run: OneRun,
    to: Annotated[str, typer.Option(help="The library: transformers, fairseq.", metavar="NAME")] = (
        "transformers"
    ),
    out: Annotated[
        Path | None,
        typer.Option(
            help="The folder to make; one of the library's name in RUN by default.", metavar="DIR"
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Write into a folder that is there, over files of the same names."
        ),
    ] = False,
) -> None:
    """Write a run's model for another library.

    The run must have kept its weights: gradlab train --keep-weights. The folder for transformers
    holds every architecture and switch, and the tokenizer. AutoModelForCausalLM, or
    AutoModelForMaskedLM, and AutoModelForSequenceClassification load it with
    trust_remote_code=True, where gradlab is installed. For fairseq it is a checkpoint of its
    transformer_lm; a model with switches that fairseq has not is refused.
    """
    from gradlab.exports.export import export

    refuse_several("an export")
    made = export(run, out=out, to=to, force=force)
    for line in (*made.notes, f"{', '.join(made.files)} in {made.folder}."):
        output().print(line, soft_wrap=True)
