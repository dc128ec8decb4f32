"""What runs were asked to do, side by side, and in what they differ."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradlab.runs.reader import Run

_FACTS = ("corpus", "params", "device", "versions")
"""What a run's document has beside its config that results can depend on."""


@dataclass(frozen=True)
class Setting:
    """Runs that differ in their seeds alone.

    Attributes:
        label: Architecture and size, numbered where several settings share them.
        runs: The names of the runs.
        seeds: Their seeds, in order; none for runs recorded by `gradlab.attach`.
        values: What they were asked to do, by dotted name (`model.d_model`), the corpus's
            `corpus.sha256`, `params`, and what they ran on (`device.name`, `versions.torch`).
    """

    label: str
    runs: tuple[str, ...]
    seeds: tuple[int, ...]
    values: Mapping[str, Any]


def settings(runs: Mapping[str, Run]) -> list[Setting]:
    """The settings of the runs, in the order in which each one's first run comes.

    Args:
        runs: The runs by name.
    """
    found: list[tuple[dict[str, Any], list[str]]] = []
    for name, run in runs.items():
        values = _values(run)
        for known, names in found:
            if known == values:
                names.append(name)
                break
        else:
            found.append((values, [name]))
    labels = _numbered([_label(runs[names[0]]) for _, names in found])
    return [
        Setting(
            label=label,
            runs=tuple(names),
            seeds=tuple(sorted(runs[n].config.seed for n in names if not runs[n].attached)),
            values=values,
        )
        for label, (values, names) in zip(labels, found, strict=True)
    ]


def keys_of(found: Sequence[Setting]) -> list[str]:
    """The names that any of the settings has, in the order of the first that has them."""
    return list(dict.fromkeys(key for setting in found for key in setting.values))


def differing(found: Sequence[Setting]) -> set[str]:
    """The names whose value is not the same in all settings that have it."""
    having = {
        key: [setting.values[key] for setting in found if key in setting.values]
        for key in keys_of(found)
    }
    return {key for key, values in having.items() if any(value != values[0] for value in values)}


def _values(run: Run) -> dict[str, Any]:
    config = {} if run.attached else run.config.model_dump(mode="json", exclude={"seed"})
    facts = {name: run.info[name] for name in _FACTS if run.info.get(name) is not None}
    if run.attached:
        config = {"model": run.info.get("model"), "meta": run.info.get("meta") or {}}
    return _flat({**config, **facts})


def _flat(document: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in document.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{above}{name}.")
        else:
            flat[f"{above}{name}"] = value
    return flat


def _label(run: Run) -> str:
    return str(run.info.get("model")) if run.attached else f"{run.config.row} {run.config.size}"


def _numbered(labels: Sequence[str]) -> list[str]:
    """The labels with a number each where several are the same."""
    seen: dict[str, int] = {}
    numbered = []
    for label in labels:
        seen[label] = seen.get(label, 0) + 1
        numbered.append(f"{label} ({seen[label]})" if labels.count(label) > 1 else label)
    return numbered
