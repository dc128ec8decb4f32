"""Which runs can be compared: those that only what is being compared tells apart."""

from collections.abc import Callable, Collection, Hashable, Iterable, Sequence

from gradlab.errors import GradlabError
from gradlab.runs.reader import Run

_SHAPE = ("n_layers", "d_model", "n_heads", "d_ff", "vocab_size", "max_seq_len")

_SAME: dict[str, Callable[[Run], object]] = {
    "variants": lambda run: run.config.variant,
    "corpora": lambda run: (run.info.get("corpus") or {}).get("sha256"),
    "sizes": lambda run: [getattr(run.config.model, name) for name in _SHAPE],
    "dropouts": lambda run: run.config.model.dropout,
    "attention paths": lambda run: run.config.model.attention,
    "precisions": lambda run: run.config.precision,
    "batches": lambda run: (run.config.batch_size, run.config.accumulation),
    "schedules": lambda run: (run.config.schedule, run.config.steps),
    "optimizers": lambda run: run.config.optimizer,
}
"""What runs must share to be compared, as a word and where it is read."""


def check_comparable(runs: Sequence[Run], *, free: Collection[str] = ()) -> None:
    """See that nothing but architecture and seed tells the runs apart.

    Args:
        runs: The runs.
        free: What may differ all the same: `sizes`, `schedules` and so on, as the errors name it.

    Raises:
        GradlabError: They differ in something else, or two do not differ at all.
    """
    for run in runs[1:]:
        if word := what_differs(runs[0], run, free=free):
            raise GradlabError(
                f"{name_of(run)} and {name_of(runs[0])} do not compare: their {word} differ."
            )
    seen: dict[Hashable, Run] = {}
    for run in runs:
        key = run_key(run)
        if key in seen:
            size, arch, seed = key
            kind = f"{arch} with seed {seed}" + (f" at {size}" if "sizes" in free else "")
            raise GradlabError(
                f"{name_of(seen[key])} and {name_of(run)} are both {kind}: give one of them."
            )
        seen[key] = run


def what_differs(one: Run, other: Run, *, free: Collection[str] = ()) -> str | None:
    """The first thing that keeps two runs from being compared, in a word; None if nothing does.

    Of a loop of the user's own nothing is known that could be compared.
    """
    if one.attached or other.attached:
        return "loops"
    differing = (word for word, read in _SAME.items() if read(one) != read(other))
    return next((word for word in differing if word not in free), None)


def comparable_groups(runs: Iterable[Run], *, free: Collection[str] = ()) -> list[list[Run]]:
    """The runs sorted into groups that compare, in the order in which each group's first comes.

    Two runs of one size, architecture and seed may be in one group: `check_comparable` refuses it.
    """
    groups: list[list[Run]] = []
    for run in runs:
        for group in groups:
            if what_differs(group[0], run, free=free) is None:
                group.append(run)
                break
        else:
            groups.append([run])
    return groups


def run_key(run: Run) -> tuple[str, str, int]:
    """What tells the runs of a group apart: size, architecture, seed.

    A run of a loop of the user's own is its model, or its folder, and seed 0.
    """
    if run.attached:
        model = str(run.info.get("model", "a model"))
        return model, model if run.path is None else run.path.name, 0
    return run.config.size, run.config.arch, run.config.seed


def name_of(run: Run) -> str:
    """A run as an error names it."""
    if run.path is not None:
        return str(run.path)
    _, arch, seed = run_key(run)
    return f"the run of {arch} with seed {seed}"
