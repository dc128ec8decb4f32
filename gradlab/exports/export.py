"""`gradlab.export`: a run's model for another library."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from gradlab.errors import GradlabError, one_of
from gradlab.exports.fairseq_folder import fairseq_files
from gradlab.exports.tokenizer_files import CONFIG_FILE
from gradlab.exports.trained import Trained, trained
from gradlab.exports.transformers_folder import transformers_files
from gradlab.paths import as_path
from gradlab.runs.document import RUN_FILE
from gradlab.runs.files import cannot_write, write_whole
from gradlab.runs.reader import Run
from gradlab.runs.tokenizer_file import TOKENIZER_FILE

Files = Callable[[Trained], tuple[dict[str, bytes], list[str]]]

LIBRARIES: Mapping[str, Files] = {"transformers": transformers_files, "fairseq": fairseq_files}
"""Library → what makes its files."""


@dataclass(frozen=True)
class Export:
    """What was written.

    Attributes:
        folder: Where.
        files: The names of the files in it.
        notes: A sentence for each thing that whoever loads it should know.
    """

    folder: Path
    files: tuple[str, ...]
    notes: tuple[str, ...]


def export(
    run: Run | str | Path,
    *,
    out: str | Path | None = None,
    to: str = "transformers",
    force: bool = False,
) -> Export:
    """Write a run's model, as it was at the run's end, for another library.

        gradlab.train("normformer", steps=300, out="runs/mine", keep_weights=True)
        gradlab.export("runs/mine", out="mine")
        AutoModelForCausalLM.from_pretrained("mine", trust_remote_code=True)

    Args:
        run: A run that has finished and was told to keep its weights.
        out: The folder to make; a new one in the run's, of the library's name, unless given.
        to: The library: transformers or fairseq.
        force: Write into a folder that is there, over files of the same names.

    Raises:
        GradlabError: The run has no weights, the library cannot express its model, or the folder
            holds something already, holds a run, or cannot be written.
    """
    files_of = one_of("library", to, LIBRARIES)
    source = trained(run)
    folder = source.folder / to if out is None else as_path(out)
    if not force and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise GradlabError(
            f"{folder} is there already: name another folder, or write over the files of the same "
            "names with --force (in Python, force=True)."
        )
    if (folder / RUN_FILE).exists():
        raise GradlabError(
            f"{folder} holds a run, whose tokenizer and weights have the same names: choose "
            "another folder."
        )
    files, notes = files_of(source)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in (TOKENIZER_FILE, CONFIG_FILE):
            if name not in files:  # of an export before, whose tokenizer is not this model's
                (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    for name, content in files.items():
        write_whole(folder / name, content)
    return Export(folder, tuple(files), (*_of_its_end(source), *notes))


def _of_its_end(source: Trained) -> list[str]:
    """That a model was broken when its run ended."""
    verdict = source.run.verdict
    if verdict is None or not verdict.broke:
        return []
    return [
        f"The run broke at step {verdict.step} ({verdict.reason}): these weights are from after it."
    ]
