"""What `run.json` says: plain JSON values, nothing that is not in the JSON standard."""

import json
import math
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import ConfigDict, Field

from gradlab.base_config import Config
from gradlab.config import RunConfig
from gradlab.errors import GradlabError, unknown
from gradlab.probe_names import PROBES
from gradlab.runs.schema import SCHEMA_VERSION, TABLE_NAME, OwnType
from gradlab.runs.verdict import Verdict

RUN_FILE = "run.json"

Status = Literal["running", "finished", "interrupted", "error"]
"""`running` stays where a process was killed, or could not write; others are of a run's end."""

STOPPED = "stopped"
"""What a reader says of a run that is `running` by its file while no process writes it."""

_Count = Annotated[int, Field(ge=0, lt=1 << 63)]
_TableName = Annotated[str, Field(pattern=TABLE_NAME)]


class _Part(Config):
    """Of a run's document: what is known has its kind, what else is there is kept."""

    model_config = ConfigDict(extra="allow", strict=True, protected_namespaces=())


class Device(_Part):
    """Where a run was made."""

    type: str | None = None
    name: str | None = None
    threads: _Count | None = None
    capability: str | None = None
    cuda: str | None = None
    matmul: dict[str, bool | str] | None = None


class CorpusFacts(_Part):
    """The text that it was trained on."""

    name: str | None = None
    sha256: str | None = None
    mask_id: _Count | None = None
    tokenizer_sha256: str | None = None


class Document(_Part):
    """The kinds of what `run.json` says, beside its config and its verdict."""

    schema_version: _Count
    status: Status
    config: dict[str, Any] | None
    verdict: dict[str, Any] | None = None
    seed: int | None = None
    precision: str | None = None
    versions: dict[str, str] | None = None
    started: str | None = None
    ended: str | None = None
    tables: list[str] = Field(default_factory=list)
    own_tables: dict[_TableName, dict[str, OwnType]] = Field(default_factory=dict)
    writes: dict[str, _Count] = Field(default_factory=dict)
    device: Device | None = None
    corpus: CorpusFacts | None = None
    params: _Count | None = None
    model: str | None = None
    meta: dict[str, Any] = Field(default_factory=dict)
    probes: list[str] = Field(default_factory=list)
    error: str | None = None


_PACKAGES = ("gradlab-diagnostics", "torch", "numpy", "pyarrow", "pydantic")


def opening(config: RunConfig | None, info: Mapping[str, Any]) -> dict[str, Any]:
    """The document of a run that starts now; `info` adds to it or overrides it.

    `tables` lists what the run records, so that a table without rows differs from one that was
    not asked for; `own_tables` has the columns of those that are a user's own.
    """
    document = {
        "schema_version": SCHEMA_VERSION,
        "status": "running",
        "config": None if config is None else config.model_dump(mode="json"),
        "seed": None if config is None else config.seed,
        "precision": None if config is None else config.precision.name,
        "versions": dict(versions()),
        "started": _now(),
        "ended": None,
        "tables": _tables(config),
        "own_tables": {},
        "verdict": None,
    }
    return {**document, **info}


def closing(
    document: Mapping[str, Any],
    status: str,
    verdict: Verdict | None,
    writes: Mapping[str, int],
    info: Mapping[str, Any],
) -> dict[str, Any]:
    """The document of a run that ends now, with the number of writes of each table."""
    if status not in get_args(Status):
        raise GradlabError(unknown("status", status, get_args(Status)))
    return {
        **document,
        "status": status,
        "ended": _now(),
        "verdict": None if verdict is None else verdict.model_dump(mode="json"),
        "writes": dict(writes),
        **info,
    }


def plain(value: Any) -> Any:
    """A value as strict JSON has it: NaN and inf become null, arrays lists, paths text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # a NumPy scalar or array
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def to_json(document: Mapping[str, Any]) -> bytes:
    """The document as indented UTF-8 JSON."""
    text = json.dumps(plain(document), indent=2, ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode()


def _tables(config: RunConfig | None) -> list[str]:
    """The tables of a run of the built-in loop."""
    probes = () if config is None else config.record.probes
    return list(dict.fromkeys(["steps", *(t for name in probes for t in PROBES[name].tables)]))


@cache  # to look one up takes as long as a short step
def versions() -> dict[str, str]:
    """Of Python and of the packages that decide what a run computes and how it is kept."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # a table can be made where torch is not installed
            continue
    return found


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
