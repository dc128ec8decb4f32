"""From options to the runs of the studies that compare losses."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import get_args

from gradlab.cli.loss_options import AblateOptions, LossStudyOptions, LrSearchOptions
from gradlab.cli.plan import build_config, check_name, seeds_of, shared_fields, size_labels
from gradlab.config import RunConfig, ScheduleConfig, ScheduleKind
from gradlab.errors import ConfigError
from gradlab.models.presets import BASELINE, TABLE_4

EQUAL = ("time", "steps")

_ABLATED = ("placement", "head_scale", "attn_out_norm", "ffn_mid_norm", "qkv_norm", "res_scale")


def plan_ablation(options: AblateOptions) -> list[RunConfig]:
    """The runs of an ablation, all with the baseline's steps: seeds × rows, in that order.

    The rows of one seed stand together, so that a study that is stopped has pairs.

    Raises:
        ConfigError: An option has a value that is unknown, out of range, or does not fit others.
    """
    check_name("equal", options.equal, EQUAL)
    for name in options.row:
        check_name("row", name, TABLE_4)
    for name in _ABLATED:
        if getattr(options, name) is not None:
            raise ConfigError(
                f"--{name.replace('_', '-')}: the rows of the study differ in it; leave it out."
            )
    rows = [name for name in TABLE_4 if name in options.row] or list(TABLE_4)
    return [
        _run(options, arch, options.lr, seed)
        for seed, arch in product(seeds_of(options.seeds), rows)
    ]


def plan_timed(options: AblateOptions) -> list[RunConfig]:
    """A run of each row whose step is to be timed: those of the study, and the baseline.

    Raises:
        ConfigError: As `plan_ablation`.
    """
    runs = {config.arch: config for config in plan_ablation(options) if config.seed == 0}
    runs.setdefault(BASELINE, _run(options, BASELINE, options.lr, 0))
    return list(runs.values())


def steps_in_time(seconds: Mapping[str, float], steps: int) -> dict[str, int]:
    """As many steps of each row as take the time of the baseline's, to the nearest.

    Args:
        seconds: Of a step, by architecture; the baseline's among them.
        steps: The baseline's.
    """
    budget = steps * seconds[BASELINE]
    return {arch: max(1, round(budget / each)) for arch, each in seconds.items()}


def with_steps(configs: Sequence[RunConfig], steps: Mapping[str, int]) -> list[RunConfig]:
    """The runs with the steps of their row.

    One that was validated after its last step alone still is.

    Raises:
        ConfigError: A row's steps leave none after the warm-up.
    """
    for config in configs:
        _check_warmup(config.schedule.warmup_steps, steps[config.arch], config.arch)
    return [_lasting(config, steps[config.arch]) for config in configs]


def _lasting(config: RunConfig, steps: int) -> RunConfig:
    once = config.val_every >= config.steps
    return config.replace(steps=steps, val_every=steps if once else config.val_every)


def plan_lr_search(options: LrSearchOptions) -> list[RunConfig]:
    """The runs of a learning rate search: seeds × rates × architectures, in that order.

    Raises:
        ConfigError: An option has a value that is unknown, out of range, or does not fit others.
    """
    return [
        _run(options, arch, lr, seed)
        for seed, lr, arch in product(
            seeds_of(options.seeds), sorted(set(options.lr)), dict.fromkeys(options.arch)
        )
    ]


def _run(options: AblateOptions | LrSearchOptions, arch: str, lr: float, seed: int) -> RunConfig:
    """One run, validated after its last step, and on the way if asked to."""
    (size,) = size_labels([options.size], [] if options.width is None else [options.width])
    _check_schedule(options)
    _check_warmup(options.warmup, options.steps)
    return RunConfig(
        arch=arch,
        size=size,
        model=build_config(options, arch, size),
        schedule=ScheduleConfig.from_mapping(
            {"kind": options.schedule, "lr": lr, "warmup_steps": options.warmup}
        ),
        steps=options.steps,
        seed=seed,
        val_every=options.val_every or options.steps,
        val_batches=options.val_batches,
        **shared_fields(options, "fp32" if options.precision == "auto" else options.precision),
    )


def _check_schedule(options: LossStudyOptions) -> None:
    known = [kind for kind in get_args(ScheduleKind) if kind != "ramp"]
    if options.schedule == "ramp":
        raise ConfigError(
            f"--schedule ramp has no learning rate to compare at: take {', '.join(known)}."
        )
    check_name("schedule", options.schedule, known)


def _check_warmup(warmup: int, steps: int, arch: str = "") -> None:
    if 0 < steps <= warmup:
        whose = f" of {arch}" if arch else ""
        raise ConfigError(
            f"--warmup {warmup} leaves none of the {steps} steps{whose} at the learning rate "
            "itself: warm up for fewer, or take more steps."
        )
