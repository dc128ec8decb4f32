"""What `run.json` says: plain JSON values, nothing that is not in the JSON standard."""

import json
import math
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, get_args

from gradlab.config import RunConfig
from gradlab.errors import GradlabError, unknown
from gradlab.runs.schema import SCHEMA_VERSION
from gradlab.runs.verdict import Verdict

RUN_FILE = "run.json"

Status = Literal["running", "finished", "interrupted", "error"]
"""`running` stays where a process was killed; the others are written by `finish`."""

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
        "versions": _versions(),
        "started": _now(),
        "ended": None,
        "tables": _tables(config),
        "own_tables": {},
        "verdict": None,
    }
    return {**document, **info}


def closing(
    document: Mapping[str, Any], status: str, verdict: Verdict | None, info: Mapping[str, Any]
) -> dict[str, Any]:
    """The document of a run that ends now."""
    if status not in get_args(Status):
        raise GradlabError(unknown("status", status, get_args(Status)))
    return {
        **document,
        "status": status,
        "ended": _now(),
        "verdict": None if verdict is None else verdict.model_dump(mode="json"),
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
    """The tables of a run of the built-in loop: its probes are named after theirs."""
    probes = () if config is None else config.record.probes
    return ["steps", *probes, *(["overflows"] if "headroom" in probes else [])]


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # a table can be made where torch is not installed
            continue
    return found


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
