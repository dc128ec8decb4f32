"""What runs can be told, in the words of the command line: the parts of a `RunConfig`, flat.

A field's name is the option's and the key in a `--config` file; its description is its help. What
is here and in `gradlab.config` is declared there.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from copy import copy
from inspect import get_annotations
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, TypeVar, get_args

from pydantic import BeforeValidator, Field, model_validator

from gradlab.base_config import Config
from gradlab.config import (
    BASE_VARIANT,
    DataConfig,
    Events,
    OptimizerConfig,
    Parallel,
    PrecisionConfig,
    PrecisionName,
    RecordConfig,
    RunConfig,
    ScalingConfig,
    ScheduleConfig,
    ScheduleKind,
    StabilityConfig,
)
from gradlab.errors import ConfigError, GradlabError, unknown
from gradlab.models.config import ModelConfig
from gradlab.models.presets import model_config, size_labels
from gradlab.probe_names import PROBES
from gradlab.runs.command import Command

PARTS = (
    ModelConfig,
    OptimizerConfig,
    ScalingConfig,
    StabilityConfig,
    DataConfig,
    RecordConfig,
)
"""The parts of a run whose fields are few people's concern."""

SWITCHES = tuple(name for name in ModelConfig.model_fields if name != "d_model")
"""Fields of a model that can be told by name; the width is part of the size."""

Part = TypeVar("Part", bound=Config)
Value = TypeVar("Value", str, int, float)


def several(value: Value | Iterable[Value]) -> Iterable[Value]:
    """One value as several."""
    return (value,) if isinstance(value, str | int | float) else value


if TYPE_CHECKING:  # what a config takes; what it holds is what stands below
    Names = Sequence[str]
    Numbers = float | Sequence[float]
    Widths = int | Sequence[int]
else:
    Names = Annotated[tuple[str, ...], BeforeValidator(several)]
    Numbers = Annotated[tuple[float, ...], BeforeValidator(several)]
    Widths = Annotated[tuple[int, ...], BeforeValidator(several)]


def same(name: str, config: type[Config] = RunConfig) -> Any:
    """The field of that name in another config: its default, range and description."""
    return copy(config.model_fields[name])


class ModelSettings(Config):
    """What overrides the architecture and the size.

    The fields of `ModelConfig` can be given by name too, as on the command line:
    `ModelSettings(qkv_norm=True)`; None is what the architecture and the size say.
    """

    also_known: ClassVar[tuple[str, ...]] = SWITCHES

    model: Mapping[str, Any] = {}
    """Fields of ModelConfig."""

    @model_validator(mode="before")
    @classmethod
    def _switches_by_name(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        by_name = {name: value for name, value in values.items() if name in SWITCHES}
        model = {**values.get("model", {}), **by_name}
        others = {name: value for name, value in values.items() if name not in SWITCHES}
        return {**others, "model": {n: value for n, value in model.items() if value is not None}}

    def model_of(self, arch: str, size: str) -> ModelConfig:
        """The model of an architecture at a size, with what is overridden.

        Raises:
            ConfigError: A name is unknown, or the fields do not fit together.
        """
        return model_config(arch, size, **self.model)


class TrainingSettings(ModelSettings, OptimizerConfig, ScalingConfig, StabilityConfig, DataConfig):
    """What every run of a command is trained with alike."""

    command_name: ClassVar[str]
    """Of the command that takes these settings."""

    batch_size: int = same("batch_size")
    accumulation: int = same("accumulation")
    device: str = same("device")
    compile: bool = same("compile")

    @model_validator(mode="after")
    def _some_of_each(self) -> Self:
        for name, field in type(self).model_fields.items():
            if name != "probes" and field.default and getattr(self, name) == ():
                raise ConfigError(f"{name} = []: name at least one.")
        return self

    def command(self) -> Command:
        """The command that these settings are of, with what is not at its default."""
        given = self.given().items()
        options = {name: list(v) if isinstance(v, tuple) else v for name, v in given}
        return Command(self.command_name, options)

    def given(self) -> dict[str, Any]:
        """What is not at its default, by name: a class's own fields before those it inherits."""
        fields = type(self).model_fields
        given = {
            name: value
            for name in own_first(type(self))
            if name != "model" and (value := getattr(self, name)) != fields[name].default
        }
        return {**given, **self.model}


class Settings(TrainingSettings):
    """The same, and what is recorded of every run."""

    probes: Names = Field(
        default=("headroom",),
        description=f"What to measure inside the model, instead of the default: "
        f"{', '.join(PROBES)}, all, or none; repeat for more.",
    )
    every: int = same("every", RecordConfig)
    events: Events = same("events", RecordConfig)
    checkpoint_every: int | None = same("checkpoint_every", RecordConfig)
    keep_weights: bool = same("keep_weights", RecordConfig)
    window: int = same("window", RecordConfig)

    def shared(self, precision: str) -> dict[str, Any]:
        """The fields of `RunConfig` that every run has alike.

        Raises:
            ConfigError: A name is unknown.
        """
        check_name("precision", precision, ["auto", *get_args(PrecisionName)])
        return {
            "batch_size": self.batch_size,
            "accumulation": self.accumulation,
            "device": self.device,
            "compile": self.compile,
            "precision": self._part(PrecisionConfig, name=precision),
            "optimizer": self._part(OptimizerConfig),
            "stability": self._part(StabilityConfig),
            "data": self._part(DataConfig),
            "record": self._record(),
        }

    def _part(self, config: type[Part], **fields: Any) -> Part:
        """A part of the configuration, from the settings of the same names as its fields."""
        names = (name for name in config.model_fields if name not in fields)
        return config(**fields, **{name: getattr(self, name) for name in names})

    def _record(self) -> RecordConfig:
        return self._part(RecordConfig, probes=probes_of(self.probes))


def probes_of(names: Sequence[str]) -> tuple[str, ...]:
    """The probes of these names; `all` are all of them, and `none`, alone, stands for none.

    Raises:
        ConfigError: A name is unknown, or does not stand alone.
    """
    if "none" in names:
        if len(names) > 1:
            raise ConfigError("probes: none stands alone; leave it out, or the others.")
        return ()
    for name in names:
        check_name("probe", name, [*PROBES, "all", "none"])
    return tuple(PROBES) if "all" in names else tuple(names)


class OneRun(Settings):
    """`gradlab train`: one run, with the options of the command.

    `OneRun(arch="normformer", lr=1e-3, steps=300).config()` is the `RunConfig`.
    """

    command_name: ClassVar[str] = "train"

    arch: str = "pre-ln"
    """The architecture."""
    size: str = "nano"
    """A size; nano-d128 is nano at width 128."""
    width: int | None = None
    """Take the size at this width."""
    seed: int = same("seed")
    steps: int = Field(default=1000, ge=1)
    """Steps to take."""
    lr: float | None = None
    """Peak learning rate; 1e-3 unless given."""
    schedule: str = "constant"
    """What follows the warm-up: constant, linear, cosine; or ramp, which rises by --lr-step at each
    step."""
    warmup: int = Field(default=0, ge=0)
    """Steps of linear warm-up from 0."""
    lr_step: float | None = None
    """The ramp's rise at each step."""
    val_every: int = same("val_every")
    val_batches: int = same("val_batches")
    parallel: Parallel = same("parallel")
    precision: str = "auto"
    """Number formats: auto, fp32, bf16, fp16, fp16-pure; auto is fp32 on a CPU, bf16 on CUDA."""
    probes: Names = Field(
        default=RecordConfig().probes, description=Settings.model_fields["probes"].description
    )
    keep_going: bool = False
    """Train on after the run has destabilised."""

    def config(self) -> RunConfig:
        """The run.

        Raises:
            ConfigError: A value is unknown, out of range, or does not fit others.
        """
        size = size_at(self.size, self.width)
        check_name("schedule", self.schedule, get_args(ScheduleKind))
        ramp = self.schedule == "ramp"
        name = self.precision
        return RunConfig(
            arch=self.arch,
            size=size,
            model=self.model_of(self.arch, size),
            schedule=ScheduleConfig.from_mapping(
                {
                    "kind": self.schedule,
                    "lr": 1e-3 if self.lr is None and not ramp else self.lr,
                    "warmup_steps": self.warmup,
                    "lr_step": self.lr_step,
                }
            ),
            steps=self.steps,
            seed=self.seed,
            val_every=self.val_every,
            val_batches=self.val_batches,
            parallel=self.parallel,
            stop_when_destabilised=not self.keep_going,
            **self.shared(_automatic_precision(self.device) if name == "auto" else name),
        )

    @classmethod
    def of(cls, config: RunConfig) -> Self:
        """The settings whose run a config is.

        Of the model only what its architecture and size do not say, so that another architecture
        or size beside them means what it always does. The variant has no setting.

        Raises:
            ConfigError: The architecture or size has no such name.
        """
        objective = config.model.objective
        named = model_config(config.arch, config.size, objective=objective)
        model = config.model.model_dump(exclude={"d_model"})
        schedule = config.schedule
        values = {
            **config.model_dump(include=cls.model_fields.keys() & RunConfig.model_fields.keys()),
            **config.precision.model_dump(exclude={"name"}),
            "precision": config.precision.name,
            "model": {
                name: value
                for name, value in model.items()
                if value != getattr(named, name) or (name, value) == ("objective", "masked")
            },
            "width": None if config.model.d_model == named.d_model else config.model.d_model,
            "schedule": schedule.kind,
            "lr": schedule.lr,
            "lr_step": schedule.lr_step,
            "warmup": schedule.warmup_steps,
            "keep_going": not config.stop_when_destabilised,
        }
        for part in (config.optimizer, config.stability, config.data, config.record):
            values |= part.model_dump()
        return cls(**{**values, "probes": config.record.probes or ("none",)})


def train_line(config: RunConfig) -> str | None:
    """The `gradlab train` that makes a run, to the last field of its config.

    None where no settings describe it, as of an architecture or a size of the user's own.
    """
    try:
        run = OneRun.of(config)
        made = run.config()
    except GradlabError:
        return None
    return run.command().line if made == config.replace(variant=BASE_VARIANT) else None


def own_first(settings: type[Config]) -> list[str]:
    """The names of the fields, a class's own before those it inherits."""
    declared = (name for cls in settings.__mro__ for name in get_annotations(cls))
    return [name for name in dict.fromkeys(declared) if name in settings.model_fields]


def size_at(size: str, width: int | None) -> str:
    """A size's label, at another width if there is one.

    Raises:
        ConfigError: The size names a width already.
    """
    (label,) = size_labels([size], [] if width is None else [width])
    return label


def check_name(option: str, name: str, known: Collection[str]) -> None:
    """See to names that a config calls otherwise than the option that gives them.

    Raises:
        ConfigError: The name is not among the known ones.
    """
    if name not in known:
        raise ConfigError(unknown(option, name, known))


def _automatic_precision(device: str) -> str:
    """Fp32 on a CPU, bf16 on CUDA."""
    if device == "cpu":
        return "fp32"
    from gradlab.training.device import resolve_device

    return "bf16" if resolve_device(device).type == "cuda" else "fp32"
