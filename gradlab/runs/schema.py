"""The tables of a run and their columns, as Arrow schemas.

One observation a row, `step` in each. A nullable column is one whose value may not exist (a
`layer` outside the blocks, a `val_loss` between two validations, an `underflow_frac` at a step
where only maxima were taken); NaN and inf are observations. `dtype` in `headroom` is the tensor's
own, as `float16`: only the wider ones can have negative headroom.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from gradlab.errors import GradlabError, unknown

SCHEMA_VERSION = 1
"""Raised when a reader of the old tables would misread the new ones."""

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
            *_always(_INT, "tokens"),
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
            *_always(_INT, "nonfinite"),
        ]
    ),
    "overflows": pa.schema(
        [
            _STEP,
            *_always(_INT, "order"),
            *_always(_TEXT, "site"),
            *_PLACE,
            *_always(_TEXT, "direction", "kind"),
            *_always(_INT, "count", "numel"),
            *_maybe(_TEXT, "producer"),
            *_maybe(_REAL, "loss_scale"),
            *_always(_FLAG, "skipped"),
        ]
    ),
    "scores": pa.schema(
        [
            _STEP,
            *_always(_TEXT, "site"),
            *_maybe(pa.int32(), "layer"),
            *_always(_INT, "head"),
            *_always(_REAL, "max", "max_abs"),
            *_always(_TEXT, "bound"),
        ]
    ),
    "optimizer": pa.schema(
        [
            _STEP,
            *_always(_TEXT, "param"),
            *_PLACE,
            *_always(_REAL, "param_rms", "update_rms", "eps_frac"),
        ]
    ),
}
"""Name → columns. The names and their meaning are the interface of every analysis."""


def schema(table: str) -> pa.Schema:
    """The columns of a table.

    Raises:
        GradlabError: There is no table of that name.
    """
    if table not in TABLES:
        raise GradlabError(unknown("table", table, TABLES))
    return TABLES[table]


def arrow_table(table: str, columns: Mapping[str, Sequence[Any]]) -> pa.Table:
    """Columns of equal length as an Arrow table of the declared types.

    Raises:
        GradlabError: A column is unknown, missing, of another length or type, or lacks a value
            that every row has.
    """
    fields = schema(table)
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
