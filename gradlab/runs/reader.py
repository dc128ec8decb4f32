"""Reads runs back. Needs neither torch nor the code that made them."""

import json
import warnings
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa

from gradlab.config import RunConfig
from gradlab.errors import ConfigError, GradlabError, GradlabWarning, unknown
from gradlab.paths import as_path
from gradlab.runs.command import typed
from gradlab.runs.document import RUN_FILE, STOPPED, Document, plain
from gradlab.runs.files import read_regular
from gradlab.runs.lock import is_held
from gradlab.runs.parts import FolderShelf, MemoryShelf, Shelf, that_count
from gradlab.runs.rows import missing_rows, read_rows
from gradlab.runs.same import check_same
from gradlab.runs.schema import SCHEMA_VERSION, TABLES, schema
from gradlab.runs.verdict import NOT_LOOKED_AT, Verdict

if TYPE_CHECKING:
    import pandas as pd

_LARGEST_DOCUMENT = 1 << 24
"""Bytes of a `run.json` that are read at most; one has some 3,000."""


@dataclass(frozen=True, repr=False, eq=False)
class Run:
    """A recorded run, finished or not.

    Attributes:
        info: The whole of `run.json`.
        verdict: How it ended, or None while that is not known.
        path: Its folder, or None if it was kept in memory.
        status: `running`, `finished`, `interrupted`, `error`, or `stopped`: begun, not ended, and
            no process writes it any more. It was killed, or nothing more could be written.
    """

    _config: RunConfig | None
    info: Mapping[str, Any]
    verdict: Verdict | None
    path: Path | None
    status: str
    _shelf: Shelf

    @classmethod
    def from_document(cls, document: Mapping[str, Any], shelf: MemoryShelf) -> Self:
        """A run kept in memory: what `run.json` would say, and the parts of its tables."""
        info = plain(document)
        _check(info)
        config, verdict = _typed(info)
        return cls(config, info, verdict, path=None, status=info["status"], _shelf=shelf)

    @property
    def config(self) -> RunConfig:
        """What the built-in loop was asked to do.

        Raises:
            GradlabError: The run is of a loop of the user's own, which gradlab cannot describe.
        """
        if self._config is None:
            raise GradlabError(
                f"{self._title} was recorded by gradlab.attach in a loop of its own: it has no "
                "config of gradlab's."
            )
        return self._config

    @property
    def attached(self) -> bool:
        """Whether it was recorded by `gradlab.attach`, in a loop of the user's own."""
        return self._config is None

    @property
    def completed(self) -> bool:
        """Whether it reached its last step without a break, as far as gradlab's own loop says."""
        return self.verdict is not None and self.verdict.censored

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the recorded tables, those included that stayed empty."""
        named = {*self.info.get("tables", ()), *self._shelf.tables()}
        own = [table for table in self.info.get("own_tables", {}) if table in named]
        # A table of one's own may have the name of one that gradlab has had since.
        return (*(table for table in TABLES if table in named and table not in own), *own)

    def table(
        self,
        name: str,
        columns: Sequence[str] | None = None,
        *,
        between: tuple[int, int] | None = None,
    ) -> "pd.DataFrame":
        """A table as a DataFrame, rows in the order of their steps.

        Columns have the same types whatever the data: `Int64` where an integer may be missing
        (`layer`), plain NumPy types elsewhere.

        Args:
            name: One of `tables`.
            columns: The columns to read; all if None.
            between: First and last step to read; all if None.

        Raises:
            GradlabError: There is no such table or column, this run did not record it, one of its
                parts is damaged, or the last step to read is before the first.
        """
        if between is not None and between[0] > between[1]:
            raise GradlabError(f"between = {between}: name the first step to read, then the last.")
        fields = schema(name, self.info.get("own_tables", {}))
        wanted = fields.names if columns is None else list(columns)
        for column in wanted:
            if column not in fields.names:
                raise GradlabError(unknown(f"column of {name}", column, fields.names))
        if name not in self.tables:
            raise GradlabError(
                f"{self._title} did not record {name}, only {', '.join(self.tables)}."
            )
        read = pa.schema([fields.field(column) for column in dict.fromkeys(["step", *wanted])])
        parts = read_rows(self._shelf, name, read, between)
        rows = _frame(pa.concat_tables([read.empty_table(), *parts]))
        if not rows["step"].is_monotonic_increasing:  # what led to an overflow is written after it
            rows = rows.sort_values("step", kind="stable", ignore_index=True)
        return rows if wanted == read.names else rows[wanted]

    def content(self, name: str) -> tuple[str, ...] | None:
        """What tells a table's rows from any other's: the names of its parts, digests in them.

        None where parts have no digest, as in older runs.
        """
        parts = that_count(self._shelf.parts(name))
        return None if any(part.digest is None for part in parts) else tuple(map(str, parts))

    @property
    def missing(self) -> tuple[str, ...]:
        """A sentence for each table of which rows have been lost since they were written.

        What is missing at a table's end is noticed only if the run has ended.
        """
        writes = self.info.get("writes", {})
        found = (missing_rows(self._shelf, name, writes.get(name)) for name in self.tables)
        return tuple(sentence for sentence in found if sentence)

    @property
    def _title(self) -> str:
        return "the run in memory" if self.path is None else f"the run {self.path}"

    def __repr__(self) -> str:
        end = self.status
        if self.verdict is not None:
            end = self.verdict.reason
            if self.verdict.step is not None:
                end += f" at step {self.verdict.step}"
            if self.verdict.lr is not None:
                end += f", lr {self.verdict.lr:.4g}"
        place = "" if self.path is None else f" in {self.path}"
        return f"<Run {self._subject}: {end}; tables {', '.join(self.tables)}{place}>"

    def _repr_html_(self) -> str:
        """The run as a notebook shows it: what it is, its end, what it recorded, and its course."""
        facts = {"run": self._subject, "end": self.status}
        if self.verdict is not None:
            verdict = self.verdict.model_dump(exclude_none=True)
            facts["end"] = f"{self.status}: {verdict.pop('reason')}"
            shown = (
                f"{n} {v:.4g}" if isinstance(v, float) else f"{n} {v}" for n, v in verdict.items()
            )
            facts["verdict"] = ", ".join(shown)
        facts["tables"] = ", ".join(self.tables)
        facts["folder"] = "in memory" if self.path is None else str(self.path)
        rows = "".join(
            f"<tr><th style='text-align:left'>{name}</th>"
            f"<td style='text-align:left'>{escape(fact)}</td></tr>"
            for name, fact in facts.items()
        )
        return f"<table>{rows}</table>{self._picture()}"

    def plot(self, figure: str = "course") -> Any:
        """A figure of the run alone, as a matplotlib Figure, which a notebook shows.

        Args:
            figure: Its title, as `gradlab.draw` takes it in `only`: `course`, `headroom`,
                `gradients over steps`.

        Raises:
            GradlabError: There is no such figure, or what it needs was not recorded.
        """
        import gradlab

        return next(iter(gradlab.draw(self, only=[figure]).values()))

    def _picture(self) -> str:
        """The course of the run as an image in HTML; nothing where none can be drawn."""
        content = BytesIO()
        try:
            self.plot().savefig(content, format="png", dpi=100)
        except GradlabError:
            return ""
        data = b64encode(content.getvalue()).decode()
        return f'<img alt="The course of training" src="data:image/png;base64,{data}">'

    @property
    def _subject(self) -> str:
        if self._config is None:
            return f"of {self.info.get('model', 'a model')}"
        return self._config.named


def folder_of_run(path: Path | str) -> Path:
    """The folder of a run, where its `run.json` may be named."""
    path = as_path(path)
    return path.parent if path.name == RUN_FILE else path


def load(path: Path | str) -> Run:
    """The run in a folder; its `run.json` may be named too. Warns where rows of it are missing.

    Raises:
        GradlabError: There is no run, its `run.json` is damaged, or a newer gradlab wrote it.
    """
    folder = folder_of_run(path)
    file = folder / RUN_FILE
    info = _read(file)
    stopped = info["status"] == "running" and not is_held(folder)
    if stopped:  # or it has ended since: then it wrote how, before it gave the folder up
        info = _read(file)
        stopped = info["status"] == "running"
    try:
        config, verdict = _typed(info)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None
    status = STOPPED if stopped else info["status"]
    run = Run(config, info, verdict, path=folder, status=status, _shelf=FolderShelf(folder))
    for sentence in run.missing:
        warnings.warn(sentence, GradlabWarning, stacklevel=2)
    return run


def _read(file: Path) -> dict[str, Any]:
    try:
        info = json.loads(read_regular(file, at_most=_LARGEST_DOCUMENT))
    except (FileNotFoundError, NotADirectoryError):
        raise _no_run(file.parent) from None
    except (ValueError, RecursionError) as error:
        raise GradlabError(
            f"{file} is damaged: it is no JSON ({error}). Put back a copy of it."
        ) from None
    if not isinstance(info, dict):
        raise GradlabError(f"{file} is damaged: it holds no JSON object.")
    try:
        _check(info)
    except GradlabError as error:
        raise type(error)(f"{file}: {error}") from None
    return info


def _check(info: dict[str, Any]) -> None:
    """See that a document is one of a run that can be read, and each of its parts of its kind."""
    found = info.get("schema_version")
    if not isinstance(found, int):
        raise GradlabError("this is no run of gradlab: it has no schema_version.")
    if found > SCHEMA_VERSION:
        raise GradlabError(
            f"written by a newer gradlab (format {found}, this one reads up to "
            f"{SCHEMA_VERSION}): update gradlab."
        )
    Document.from_mapping(info)


def _typed(info: dict[str, Any]) -> tuple[RunConfig | None, Verdict | None]:
    """The config and the verdict of a document."""
    config, found = info["config"], info.get("verdict")
    verdict = None if found is None else Verdict.from_mapping(found)
    looked = "overflows" in info.get("tables", ("overflows",))
    if verdict is not None and verdict.broke and verdict.first_overflow is None and not looked:
        verdict = verdict.replace(first_overflow=NOT_LOOKED_AT)  # as runs of before did not say
    return None if config is None else RunConfig.from_mapping(config), verdict


_NOT_A_RUN = {
    "explanation.json": "it holds what removes a break, which explanation.csv there says; inspect "
    "takes the run, or one of its trials",
    "bundle.json": "it holds steps that attach(keep=...) kept; gradlab.replay(folder, model) does "
    "them again",
}
"""Other folders that gradlab writes, by the file that tells them."""


def _no_run(folder: Path) -> GradlabError:
    """The error for a folder without a run, with the runs in it if it is a study."""
    if not folder.exists():
        return GradlabError(f"there is no run {folder}: the folder does not exist.")
    if not folder.is_dir():
        return GradlabError(
            f"there is no run in {folder}: it is a file, and a run or a study is a folder."
        )
    inside = sorted(file.parent for file in folder.glob(f"*/{RUN_FILE}"))
    if inside:
        error = GradlabError(
            f"{folder} is not one run but holds {len(inside)}: name one of them, as {inside[0]}."
        )
        error.instead = inside
        return error
    for file, what in _NOT_A_RUN.items():
        if (folder / file).exists():
            return GradlabError(f"there is no run in {folder}: {what}.")
    return GradlabError(f"there is no run in {folder}: it has no {RUN_FILE}.")


def _frame(rows: pa.Table) -> "pd.DataFrame":
    import pandas as pd

    frame: pd.DataFrame = rows.to_pandas()
    # A missing integer would turn the column into floats, and only in some runs.
    for field in rows.schema:
        if field.nullable and pa.types.is_integer(field.type):
            frame[field.name] = frame[field.name].astype(pd.Int64Dtype())
    return frame


def run_of_before(folder: Path, config: RunConfig) -> Run | None:
    """The run of this config that lies in a folder; None if there is no run at all.

    Raises:
        GradlabError: It is another one, or cannot be read.
    """
    if not (folder / RUN_FILE).exists():
        return None
    run = load(folder)
    check_same(folder, run.config, config, options=typed("--config", folder))
    return run
