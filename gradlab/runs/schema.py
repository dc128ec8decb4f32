"""The tables of a run and their columns, as Arrow schemas.

A user's own probe may fill a table of its own, whose columns stand in `run.json`.

One observation a row, `step` in each. A nullable column is one whose value may not exist (a
`layer` outside the blocks, a `val_loss` between two validations, an `underflow_frac` at a step
where only maxima were taken); NaN and inf are observations. `dtype` in `headroom` is the tensor's
own, as `float16`: only the wider ones can have negative headroom.
"""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import pyarrow as pa

from gradlab.errors import GradlabError, unknown

SCHEMA_VERSION = 2
"""Raised when a reader of the old tables would misread the new ones.

2: a run that validates does so after its last step too, whatever `val_every`; configs name their
variant.
"""

_INT = pa.int64()
_REAL = pa.float64()
_TEXT = pa.string()
_FLAG = pa.bool_()

_STEP = pa.field("step", _INT, nullable=False)
_PLACE = (pa.field("layer", pa.int32()), pa.field("op", _TEXT))


def _always(kind: pa.DataType, *names: str) -> tuple[pa.Field, ...]:
    return tuple(pa.field(name, kind, nullable=False) for name in names)


def _maybe(kind: pa.DataType, *names: str) -> tuple[pa.Field, ...]:
    return tuple(pa.field(name, kind) for name in names)


TABLES: Mapping[str, pa.Schema] = {
    "steps": pa.schema(
        [
            _STEP,
            *_always(_INT, "update"),
            *_maybe(_REAL, "lr", "loss", "val_loss", "loss_scale"),
            *_always(_FLAG, "skipped"),
            *_maybe(_REAL, "grad_norm"),
            *_maybe(_INT, "tokens"),
            *_always(_REAL, "seconds"),
        ]
    ),
    "grad_norms": pa.schema(
        [
            _STEP,
            *_always(_TEXT, "param"),
            *_PLACE,
            *_always(_INT, "numel"),
            *_always(_REAL, "grad_l1", "grad_l2", "grad_max_abs"),
            *_always(_INT, "nonfinite"),
        ]
    ),
    "scales": pa.schema(
        [
            _STEP,
            *_always(_TEXT, "param"),
            *_PLACE,
            *_always(_INT, "index"),
            *_always(_REAL, "value"),
        ]
    ),
    "headroom": pa.schema(
        [
            _STEP,
            *_always(_TEXT, "site"),
            *_PLACE,
            *_always(_TEXT, "direction", "dtype"),
            *_always(_REAL, "max_abs", "headroom_bits"),
            *_maybe(_REAL, "underflow_frac"),
            *_maybe(_INT, "nonfinite"),
        ]
    ),
    "overflows": pa.schema(
        [
            _STEP,
            *_always(_INT, "order"),
            *_maybe(_INT, "rank"),
            *_always(_TEXT, "site"),
            *_PLACE,
            *_always(_TEXT, "direction", "kind"),
            *_maybe(_INT, "count"),
            *_always(_INT, "numel"),
            *_maybe(_TEXT, "producer", "function", "source"),
            *_maybe(_REAL, "loss_scale"),
            *_always(_FLAG, "skipped"),
        ]
    ),
    "forecasts": pa.schema([_STEP, *_always(_TEXT, "site"), *_always(_INT, "overflow_step")]),
    "scores": pa.schema(
        [
            _STEP,
            *_always(_TEXT, "site"),
            *_maybe(pa.int32(), "layer"),
            *_maybe(_INT, "head"),
            *_maybe(_REAL, "max", "max_abs"),
            *_always(_TEXT, "bound"),
        ]
    ),
    "optimizer": pa.schema(
        [
            _STEP,
            *_always(_TEXT, "param"),
            *_PLACE,
            *_always(_REAL, "param_rms", "update_rms"),
            *_maybe(_REAL, "eps_frac"),
        ]
    ),
    "hidden": pa.schema(
        [
            _STEP,
            *_always(_TEXT, "site"),
            *_maybe(pa.int32(), "layer"),
            *_always(_REAL, "mean", "std", "input_mean", "input_std"),
            *_maybe(_REAL, "cosine", "cka", "first_branch", "last_branch"),
            *_maybe(_REAL, "mean_shift", "std_shift"),
        ]
    ),
    "entropy": pa.schema(
        [
            _STEP,
            *_always(_TEXT, "site"),
            *_maybe(pa.int32(), "layer"),
            *_maybe(_INT, "head"),
            *_always(_REAL, "entropy"),
        ]
    ),
    "faults": pa.schema(
        [
            _STEP,
            *_maybe(_INT, "order"),
            *_always(_INT, "rank"),
            *_always(_TEXT, "what", "name"),
            *_PLACE,
            *_maybe(_TEXT, "direction", "dtype"),
            *_always(_TEXT, "kind"),
            *_maybe(_INT, "count", "numel"),
            *_maybe(_TEXT, "producer", "function", "source"),
        ]
    ),
}
"""Name → columns. The names and their meaning are the interface of every analysis."""


TABLE_NAME = r"^[A-Za-z][A-Za-z0-9_-]*$"
"""What a table of one's own can be called: it becomes a folder's name."""

OwnType: TypeAlias = Literal["int", "float", "str", "bool"]

OwnTables: TypeAlias = Mapping[str, Mapping[str, str]]
"""Tables of a user's own probes: name → column → `int`, `float`, `str` or `bool`."""

_OWN_TYPES = {"int": _INT, "float": _REAL, "str": _TEXT, "bool": _FLAG}


def own_table(table: str, columns: Mapping[str, type]) -> dict[str, str]:
    """The columns of a table of one's own as `run.json` has them.

    Raises:
        GradlabError: The table is one of gradlab's, its name cannot be a folder's, or a column has
            another type.
    """
    if table in TABLES:
        raise GradlabError(f"the table {table!r} is gradlab's own: choose another name.")
    if not re.fullmatch(TABLE_NAME, table):
        raise GradlabError(f"{table!r} cannot name a table: letters, digits and _ can.")
    for name, kind in columns.items():
        if kind.__name__ not in _OWN_TYPES:
            raise GradlabError(
                f"column {name!r} of {table} has type {kind.__name__}: choose int, float, str or "
                "bool."
            )
    return {name: kind.__name__ for name, kind in columns.items()}


def schema(table: str, own: OwnTables = MappingProxyType({})) -> pa.Schema:
    """The columns of a table.

    Raises:
        GradlabError: There is no table of that name.
    """
    if table in own:
        columns = own[table].items()
        return pa.schema([_STEP, *(pa.field(name, _OWN_TYPES[kind]) for name, kind in columns)])
    if table not in TABLES:
        raise GradlabError(unknown("table", table, [*TABLES, *own]))
    return TABLES[table]


def arrow_table(
    table: str,
    columns: Mapping[str, Sequence[Any]],
    own: OwnTables = MappingProxyType({}),
) -> pa.Table:
    """Columns of equal length as an Arrow table of the declared types.

    Raises:
        GradlabError: A column is unknown, missing, of another length or type, or lacks a value
            that every row has.
    """
    fields = schema(table, own)
    for name in columns:
        if name not in fields.names:
            raise GradlabError(unknown(f"column of {table}", name, fields.names))
    missing = [name for name in fields.names if name not in columns]
    if missing:
        raise GradlabError(f"rows of {table} need the column {missing[0]!r}.")
    try:
        # A cast refuses what building an array of the wanted type would quietly truncate.
        arrays = [pa.array(columns[field.name]).cast(field.type) for field in fields]
        result = pa.table(arrays, schema=fields)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise GradlabError(f"these are no rows of {table}: {error}.") from error
    for field in fields:
        if not field.nullable and result[field.name].null_count:
            raise GradlabError(f"every row of {table} needs a value of {field.name!r}.")
    return result
