"""What every configuration has: immutable, strict about keys, a mistake told in one sentence."""

import sys
from collections.abc import Mapping
from typing import Any, ClassVar, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from gradlab.errors import ConfigError, unknown


class Config(BaseModel):
    """Base of the configurations: immutable, strict about keys, errors in one sentence."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    also_known: ClassVar[tuple[str, ...]] = ()
    """Keys that are taken beside the fields."""

    def __init__(self, /, **values: Any) -> None:
        _check_no_truth_is_a_number(type(self), values)
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(_sentence(type(self), error)) from None

    @model_validator(mode="before")
    @classmethod
    def _numbers_are_numbers(cls, values: Any) -> Any:
        """Refuse what pydantic lets pass or fails at: numbers past 64 bits."""
        for name, value in values.items() if isinstance(values, Mapping) else ():
            field = cls.model_fields.get(name)
            if field is None or not isinstance(value, int):
                continue
            kinds = {field.annotation, *get_args(field.annotation)}
            limit = sys.float_info.max if float in kinds else 2**63 - 1
            if kinds & {int, float} and abs(value) > limit:
                raise ValueError(f"{name} is too large: it can be {limit:,} at most.")
        return values

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """The config that a parsed TOML or JSON document describes."""
        return cls(**values)

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, checked as a new config is."""
        return type(self)(
            **{**{name: getattr(self, name) for name in type(self).model_fields}, **changes}
        )


def _check_no_truth_is_a_number(cls: type[Config], values: Mapping[str, Any]) -> None:
    """Refuse `true` for a number: pydantic would take it for 1."""
    for name, value in values.items():
        field = cls.model_fields.get(name)
        if field is None or bool in (field.annotation, *get_args(field.annotation)):
            continue
        for one in value if isinstance(value, list | tuple) else [value]:
            if isinstance(one, bool):
                raise ConfigError(f"{name} = {str(one).lower()}: give a value, not true or false.")


def _sentence(cls: type[Config], error: ValidationError) -> str:
    """The first problem of a pydantic error as one sentence."""
    problem = error.errors()[0]
    path = ".".join(part for part in problem["loc"] if isinstance(part, str))
    cause = problem.get("ctx", {}).get("error")
    if isinstance(cause, ValueError):
        return str(cause)
    if problem["type"] == "extra_forbidden":
        keys = [*cls.model_fields, *cls.also_known]
        if command := getattr(cls, "command_name", None):
            return unknown("setting", path, keys, listed=f"`gradlab {command} --help-all`")
        return unknown(f"key of {cls.__name__}", path, keys)
    if problem["type"] == "literal_error":
        value = problem["input"]
        field = cls.model_fields.get(str(problem["loc"][0]))
        options = get_args(field.annotation) if field else ()
        if options and all(isinstance(option, str) for option in options):
            return unknown(path, value, options)
    if problem["type"] == "missing":
        return f"{cls.__name__} needs {path}."
    message = problem["msg"].replace("Input should be", "should be")
    return f"{path} = {problem['input']!r} {message}."
