"""Which runs can be compared: those that only what is being compared tells apart."""

from collections.abc import Callable, Collection, Hashable, Iterable, Sequence

from gradlab.config import RunConfig
from gradlab.errors import GradlabError
from gradlab.models.config import ModelConfig
from gradlab.models.presets import NAMED
from gradlab.runs.reader import Run

_SHAPE = ("n_layers", "d_model", "n_heads", "d_ff", "vocab_size", "max_seq_len")

_TOKENIZERS = {None: "bytes", "bpe": "bpe"}
"""By name; one file may have several, and what it makes of a text tells by the ids' SHA-256."""

_SAME: dict[str, Callable[[Run], object]] = {
    "variants": lambda run: run.config.variant,
    "objectives": lambda run: run.config.model.objective,
    "tokenizers": lambda run: _TOKENIZERS.get(run.config.data.tokenizer, "a file's"),
    "corpora": lambda run: (run.info.get("corpus") or {}).get("sha256"),
    "sizes": lambda run: [getattr(run.config.model, name) for name in _SHAPE],
    "dropouts": lambda run: run.config.model.dropout,
    "attention paths": lambda run: run.config.model.attention,
    "precisions": lambda run: run.config.precision,
    "batches": lambda run: (run.config.batch_size, run.config.accumulation),
    "schedules": lambda run: (run.config.schedule, run.config.steps),
    "optimizers": lambda run: run.config.optimizer,
    "held-out shares of the text": lambda run: run.config.data.held_out,
    "batches of a validation": lambda run: run.config.val_batches,
    "criteria of a break": lambda run: run.config.stability,
}
"""What runs must share to be compared, as a word and where it is read."""

_MODELS = "models' settings"

_ELSEWHERE = {*_SHAPE, "objective", "dropout", "attention"}
"""The settings of a model that have a word of their own."""


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
    for run, key in zip(runs, run_keys(runs), strict=True):
        if key in seen:
            size, arch, seed = key
            kind = f"{arch} with seed {seed}" + (f" at {size}" if "sizes" in free else "")
            raise GradlabError(
                f"{name_of(seen[key])} and {name_of(run)} are both {kind}: give one of them."
            )
        seen[key] = run


def what_differs(one: Run, other: Run, *, free: Collection[str] = ()) -> str | None:
    """The first thing that keeps two runs from being compared, in a word; None if nothing does.

    Of a loop of the user's own nothing is known that could tell: two are compared as they are
    given.
    """
    if one.attached and other.attached:
        return None
    if one.attached or other.attached:
        return "loops"
    differing = [word for word, read in _SAME.items() if read(one) != read(other)]
    differing += [_MODELS] if _models_differ(one.config, other.config) else []
    return next((word for word in differing if word not in free), None)


def _models_differ(one: RunConfig, other: RunConfig) -> bool:
    """Whether a setting tells two models apart that is not their architectures' own.

    An activation, say, that one was given and the other was not.
    """
    return any(
        getattr(one.model, name) != getattr(other.model, name)
        and not (_is_its_own(one, name) and _is_its_own(other, name))
        for name in ModelConfig.model_fields.keys() - _ELSEWHERE
    )


def _is_its_own(config: RunConfig, name: str) -> bool:
    """Whether a model's setting is its architecture's; all are where nobody knows that."""
    if config.arch not in NAMED:
        return True
    usual = NAMED[config.arch].get(name, ModelConfig.model_fields[name].default)
    return bool(getattr(config.model, name) == usual)


def loss_differs(one: Run, other: Run) -> str | None:
    """The first thing that makes the losses of two runs losses of different things, in a word."""
    of_the_loss = {"objectives", "tokenizers", "corpora"}
    of_the_loss |= {"held-out shares of the text", "batches of a validation"}
    return what_differs(one, other, free={*_SAME, _MODELS} - of_the_loss)


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


RunKey = tuple[str, str, int]
"""Size, architecture, seed."""


def run_key(run: Run) -> RunKey:
    """What a run is among others: size, architecture, seed.

    One of a loop of the user's own has its model for a size, the name of its folder (or the model)
    for an architecture, and seed 0.
    """
    return run_keys([run])[0]


def run_keys(runs: Sequence[Run]) -> list[RunKey]:
    """What tells runs apart: `run_key` of each, the runs of loops of the user's own by name.

    Behind a name stands what differs in the runs' `meta`: `mine (norm=pre)`. Names that are still
    the same have a number.
    """
    own = [run for run in runs if run.attached]
    names = dict(zip(map(id, own), _names(own), strict=True))
    return [
        (_model(run), names[id(run)], 0)
        if run.attached
        else (run.config.size_label, run.config.arch, run.config.seed)
        for run in runs
    ]


def seed_of(run: Run) -> int | None:
    """A run's seed, which of a loop of the user's own is not known."""
    return None if run.attached else run.config.seed


def _names(runs: Sequence[Run]) -> list[str]:
    """A name of its own for each run of a loop of the user's own."""
    metas = [run.info.get("meta") or {} for run in runs]
    keys = dict.fromkeys(key for meta in metas for key in meta)
    differing = [key for key in keys if any(meta.get(key) != metas[0].get(key) for meta in metas)]
    names: list[str] = []
    for run, meta in zip(runs, metas, strict=True):
        told = ", ".join(f"{key}={meta[key]}" for key in differing if key in meta)
        name = _model(run) if run.path is None else run.path.resolve().name
        name = f"{name} ({told})" if told else name
        count = sum(other == name or other.startswith(f"{name} #") for other in names)
        names.append(f"{name} #{count + 1}" if count else name)
    return names


def _model(run: Run) -> str:
    return str(run.info.get("model", "a model"))


def name_of(run: Run) -> str:
    """A run as an error names it."""
    if run.path is not None:
        return str(run.path)
    _, arch, seed = run_key(run)
    return f"the run of {arch}" if run.attached else f"the run of {arch} with seed {seed}"
