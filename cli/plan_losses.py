"""From options to the runs of the studies that compare losses."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import get_args

from gradlab.cli.loss_options import (
    AblateOptions,
    EqualOptions,
    LossStudyOptions,
    LrSearchOptions,
)
from gradlab.cli.plan import build_config, check_name, seeds_of, shared_fields
from gradlab.config import BASE_VARIANT, RunConfig, ScheduleConfig, ScheduleKind
from gradlab.errors import ConfigError
from gradlab.models.presets import BASELINE, TABLE_4, size_labels

_ABLATED = ("placement", "head_scale", "attn_out_norm", "ffn_mid_norm", "qkv_norm", "res_scale")


def plan_ablation(options: AblateOptions) -> list[RunConfig]:
    """The runs of an ablation, all with the baseline's steps: seeds × rows, in that order.

    The rows of one seed stand together, so that a study that is stopped has pairs.

    Raises:
        ConfigError: An option has a value that is unknown, out of range, or does not fit others.
    """
    check_equal(options)
    for name in options.row:
        check_name("row", name, TABLE_4)
    for name in _ABLATED:
        if getattr(options, name) is not None:
            raise ConfigError(
                f"--{name.replace('_', '-')}: the rows of the study differ in it; leave it out."
            )
    rows = [name for name in TABLE_4 if name in options.row] or list(TABLE_4)
    return [
        loss_run(options, arch, options.lr, seed)
        for seed, arch in product(seeds_of(options.seeds), rows)
    ]


def check_equal(options: EqualOptions) -> None:
    """See to what is to be equal.

    Raises:
        ConfigError: It is neither time nor steps.
    """
    check_name("equal", options.equal, ("time", "steps"))


def timed_rows(options: AblateOptions) -> list[list[RunConfig]]:
    """A run of each row whose step is to be timed: the baseline, and those of the study.

    Raises:
        ConfigError: As `plan_ablation`.
    """
    rows = [config for config in plan_ablation(options) if config.seed == 0]
    baseline = loss_run(options, BASELINE, options.lr, 0)
    return [[baseline, *(config for config in rows if config.arch != BASELINE)]]


def steps_in_time(ratio: float, steps: int) -> int:
    """As many steps as take the time of the baseline's, to the nearest, and one at least.

    Args:
        ratio: Of the time of a step to the baseline's.
        steps: The baseline's.
    """
    return max(1, round(steps / ratio))


def with_steps(configs: Sequence[RunConfig], steps: Mapping[str, int]) -> list[RunConfig]:
    """The runs with the steps of their row (`RunConfig.row`).

    One that was validated after its last step alone still is.

    Raises:
        ConfigError: A row's steps leave none after the warm-up.
    """
    for config in configs:
        _check_warmup(config.schedule.warmup_steps, steps[config.row], config.row)
    return [_lasting(config, steps[config.row]) for config in configs]


def _lasting(config: RunConfig, steps: int) -> RunConfig:
    once = config.val_every >= config.steps
    return config.replace(steps=steps, val_every=steps if once else config.val_every)


def plan_lr_search(options: LrSearchOptions) -> list[RunConfig]:
    """The runs of a learning rate search: seeds × rates × architectures, in that order.

    Raises:
        ConfigError: An option has a value that is unknown, out of range, or does not fit others.
    """
    return [
        loss_run(options, arch, lr, seed)
        for seed, lr, arch in product(
            seeds_of(options.seeds), sorted(set(options.lr)), dict.fromkeys(options.arch)
        )
    ]


def loss_run(
    options: EqualOptions | LrSearchOptions,
    arch: str,
    lr: float,
    seed: int,
    variant: str = BASE_VARIANT,
) -> RunConfig:
    """One run, validated after its last step, and on the way if asked to.

    Raises:
        ConfigError: An option has a value that is unknown, out of range, or does not fit others.
    """
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
        variant=variant,
        **shared_fields(options, "fp32" if options.precision == "auto" else options.precision),
    )


def _check_schedule(options: LossStudyOptions) -> None:
    known = [kind for kind in get_args(ScheduleKind) if kind != "ramp"]
    if options.schedule == "ramp":
        raise ConfigError(
            f"--schedule ramp has no learning rate to compare at: take {', '.join(known)}."
        )
    check_name("schedule", options.schedule, known)


def _check_warmup(warmup: int, steps: int, row: str = "") -> None:
    if 0 < steps <= warmup:
        whose = f" of {row}" if row else ""
        raise ConfigError(
            f"--warmup {warmup} leaves none of the {steps} steps{whose} at the learning rate "
            "itself: warm up for fewer, or take more steps."
        )
