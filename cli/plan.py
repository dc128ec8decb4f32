"""From options to run configurations: what a command would do, without doing it."""

import os
from collections.abc import Collection
from dataclasses import replace
from itertools import product
from typing import Any, TypeVar, get_args

from gradlab.cli.command_options import GradNormsOptions, StabilityOptions, TrainOptions
from gradlab.cli.options import ModelOptions, RunOptions
from gradlab.config import (
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    PrecisionConfig,
    PrecisionName,
    ProbeName,
    RecordConfig,
    RunConfig,
    ScheduleConfig,
    ScheduleKind,
    StabilityConfig,
)
from gradlab.errors import ConfigError, GradlabError, unknown
from gradlab.models.presets import base_size, model_config, size_labels

STEP_CAPS = {"nano": 4000, "micro": 4000, "mini": 3000}
"""Steps after which a run of the stability test is censored; the break is well before."""

LARGE_STEP_CAP = 2000
"""The cap at the paper's own sizes."""

Part = TypeVar("Part", bound=Config)


def plan_stability(options: StabilityOptions) -> list[RunConfig]:
    """The runs of a stability study: sizes × ramps × seeds × architectures, in that order.

    The architectures of one seed stand together, so that a study that is stopped has pairs.

    Raises:
        ConfigError: An option has a value that is unknown, out of range, or does not fit others.
    """
    name = "fp16" if options.precision == "auto" else options.precision
    sizes = size_labels(options.size, options.width)
    ramps = list(dict.fromkeys(options.lr_step))
    architectures = list(dict.fromkeys(options.arch))
    return [
        RunConfig(
            arch=arch,
            size=size,
            model=build_config(options, arch, size),
            schedule=ScheduleConfig(kind="ramp", lr_step=ramp),
            steps=_step_cap(size) if options.steps is None else options.steps,
            seed=seed,
            **shared_fields(options, name),
        )
        for size, ramp, seed, arch in product(sizes, ramps, seeds_of(options.seeds), architectures)
    ]


def plan_grad_norms(options: GradNormsOptions) -> list[RunConfig]:
    """The runs of a study of gradients: seeds × architectures, in that order.

    The gradients are recorded whatever else is.

    Raises:
        ConfigError: An option has a value that is unknown, out of range, or does not fit others.
    """
    (size,) = size_labels([options.size], [] if options.width is None else [options.width])
    name = "fp32" if options.precision == "auto" else options.precision
    if options.every > max(options.average, 1):  # an average of none is refused as such
        raise ConfigError(
            f"--every {options.every}: a window of {options.average} steps may then have no look "
            "at the gradients; look more often, or average more steps."
        )
    options = replace(options, probes=_with("grad_norms", options.probes))
    return [
        RunConfig(
            arch=arch,
            size=size,
            model=build_config(options, arch, size),
            schedule=ScheduleConfig(lr=options.lr, warmup_steps=options.warmup),
            steps=options.steps,
            seed=seed,
            **shared_fields(options, name),
        )
        for seed, arch in product(seeds_of(options.seeds), dict.fromkeys(options.arch))
    ]


def plan_train(options: TrainOptions) -> RunConfig:
    """The run of `gradlab train`.

    Raises:
        ConfigError: An option has a value that is unknown, out of range, or does not fit others.
    """
    (size,) = size_labels([options.size], [] if options.width is None else [options.width])
    check_name("schedule", options.schedule, get_args(ScheduleKind))
    ramp = options.schedule == "ramp"
    name = options.precision
    return RunConfig(
        arch=options.arch,
        size=size,
        model=build_config(options, options.arch, size),
        schedule=ScheduleConfig.from_mapping(
            {
                "kind": options.schedule,
                "lr": 1e-3 if options.lr is None and not ramp else options.lr,
                "warmup_steps": options.warmup,
                "lr_step": options.lr_step,
            }
        ),
        steps=options.steps,
        seed=options.seed,
        val_every=options.val_every,
        val_batches=options.val_batches,
        stop_when_destabilised=not options.keep_going,
        **shared_fields(options, _automatic_precision(options.device) if name == "auto" else name),
    )


def build_config(options: ModelOptions, arch: str, size: str) -> ModelConfig:
    """The model of an architecture at a size's label, with what the options override."""
    switches = {
        name: getattr(options, name)
        for name in ModelConfig.model_fields
        if name != "d_model" and getattr(options, name) is not None
    }
    return model_config(arch, size, **switches)


def default_jobs() -> int:
    """A job for each core that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def check_jobs(jobs: int | None, device_type: str) -> int:
    """The number of jobs, by default a core each on a CPU and one on a GPU.

    Raises:
        GradlabError: Fewer than one.
    """
    if jobs is None:
        return default_jobs() if device_type == "cpu" else 1
    if jobs < 1:
        raise GradlabError(f"--jobs {jobs}: at least one run must be able to train.")
    return jobs


def seeds_of(count: int) -> range:
    """The seeds of a study.

    Raises:
        ConfigError: There are none.
    """
    if count < 1:
        raise ConfigError(f"--seeds {count}: a study needs at least one seed.")
    return range(count)


def _step_cap(label: str) -> int:
    return STEP_CAPS.get(base_size(label), LARGE_STEP_CAP)


def shared_fields(options: RunOptions, precision: str) -> dict[str, Any]:
    """The fields of `RunConfig` that every training command sets in the same way."""
    check_name("precision", precision, ["auto", *get_args(PrecisionName)])
    return {
        "batch_size": options.batch_size,
        "accumulation": options.accumulation,
        "device": options.device,
        "precision": _part(PrecisionConfig, options, name=precision),
        "optimizer": _part(OptimizerConfig, options),
        "stability": _part(StabilityConfig, options),
        "data": _part(DataConfig, options),
        "record": _record(options),
    }


def _with(probe: str, probes: list[str]) -> list[str]:
    """The probes with one that is needed, each once; `none` adds none."""
    return list(dict.fromkeys([probe, *(name for name in probes if name != "none")]))


def _record(options: RunOptions) -> RecordConfig:
    """What is recorded: `none`, alone, stands for no probes."""
    probes = [] if list(options.probes) == ["none"] else options.probes
    for name in probes:
        check_name("probe", name, [*get_args(ProbeName), "none"])
    return _part(RecordConfig, options, probes=tuple(probes))


def check_name(option: str, name: str, known: Collection[str]) -> None:
    """See to names that a config calls otherwise than the option that gives them.

    Raises:
        ConfigError: The name is not among the known ones.
    """
    if name not in known:
        raise ConfigError(unknown(option, name, known))


def _part(config: type[Part], options: RunOptions, **fields: Any) -> Part:
    """A part of the configuration, from the options of the same names as its fields."""
    others = {name: getattr(options, name) for name in config.model_fields if name not in fields}
    return config(**fields, **others)


def _automatic_precision(device: str) -> str:
    """Fp32 on a CPU, bf16 on CUDA."""
    if device == "cpu":
        return "fp32"
    from gradlab.training.device import resolve_device

    return "bf16" if resolve_device(device).type == "cuda" else "fp32"
