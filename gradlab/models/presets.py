"""Architectures and sizes by name.

Sources: the blocks of the NormFormer paper (section 2), its Table 2 for the sizes from 125M on.
"""

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from gradlab.errors import ConfigError, one_of
from gradlab.models.config import ModelConfig

_NORMFORMER = {
    "placement": "pre",
    "head_scale": "heads",
    "attn_out_norm": True,
    "ffn_mid_norm": True,
}
_NORMFORMER_RESSCALE = {**_NORMFORMER, "res_scale": "ffn"}

ARCHITECTURES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "post-ln": {"placement": "post"},
        "pre-ln": {"placement": "pre"},
        "normformer": _NORMFORMER,
        "normformer-resscale": _NORMFORMER_RESSCALE,
        "pre-ln-resscale": {"placement": "pre", "res_scale": "ffn"},
        "deepnorm": {"placement": "post", "skip_scale": "deepnorm", "init": "deepnorm"},
        "peri-ln": {
            "placement": "pre",
            "attn_out_norm": True,
            "ffn_out_norm": True,
            "embed_norm": True,
        },
        "qk-norm": {"placement": "pre", "qk_norm": "heads"},
        "pre-rmsnorm": {"placement": "pre", "norm": "rmsnorm"},
        "rezero": {"placement": "none", "branch_scale": "rezero"},
        "layerscale": {"placement": "pre", "branch_scale": "layerscale"},
        "reordered-norm": {
            "placement": "none",
            "norm": "rmsnorm",
            "attn_out_norm": True,
            "ffn_out_norm": True,
            "qk_norm": "width",
        },
        "ln-scaling": {"placement": "pre", "ln_scaling": True},
        "mix-ln": {"placement": "mix"},
        "hybrid-norm": {"placement": "hybrid", "qk_norm": "heads-and-v"},
        "dyt": {"placement": "pre", "norm": "dyt"},
        "admin": {"placement": "post", "res_scale": "both", "init": "admin"},
        "batch-norm": {"placement": "pre", "norm": "batchnorm"},
        "weight-standardised": {"placement": "pre", "weight_standardisation": True},
    }
)
"""Architecture name → the fields of `ModelConfig` that make it. The first five are the paper's;
docs/architectures.md has the equations and sources of the others."""

ABLATIONS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "minus-post-attn-ln": {**_NORMFORMER_RESSCALE, "attn_out_norm": False},
        "minus-ffn-ln": {**_NORMFORMER_RESSCALE, "ffn_mid_norm": False},
        "minus-head-scale": {**_NORMFORMER_RESSCALE, "head_scale": "none"},
        "plus-3-more-ln": {**_NORMFORMER_RESSCALE, "qkv_norm": True},
    }
)
"""The rows of the paper's Table 4 that have no name elsewhere: `normformer-resscale` but for one
operation. They are architecture names too."""

CONTROLS: Mapping[str, Mapping[str, Any]] = MappingProxyType({"pre-ln-wide": {"placement": "pre"}})
"""Models with as many parameters as another architecture, to tell what it does from what its
parameters do. They are architecture names too: `MORE_FFN` says how they are wider."""

MORE_FFN: Mapping[str, int] = MappingProxyType({"pre-ln-wide": 5})
"""Control → units of its FFN beyond the size's.

NormFormer adds 10 d_model + n_heads parameters to a layer, and a unit of the FFN is 2 d_model + 1
of them: at every size five units come within n_heads − 5 parameters a layer of it.
"""

TABLE_4: Mapping[str, str] = MappingProxyType(
    {
        "normformer-resscale": "all operations",
        "minus-post-attn-ln": "− post-attention LN",
        "minus-ffn-ln": "− FFN LN",
        "minus-head-scale": "− head scale",
        "normformer": "− ResScale",
        "plus-3-more-ln": "+ 3 more LN",
        "pre-ln": "baseline (Pre-LN)",
    }
)
"""Architecture → its row of the paper's Table 4, in the paper's order."""

ALL_OPERATIONS, *_, BASELINE = TABLE_4

NAMED: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {**ARCHITECTURES, **ABLATIONS, **CONTROLS}
)
"""Every architecture name → as in `ARCHITECTURES`."""

_AT_WIDTH = re.compile(r"(?P<size>.+)-d(?P<width>[1-9][0-9]{0,18})")
"""A size at another width, as `nano-d128`."""

WIDEST = 999_998
"""The widest that a size can be taken at."""

HEAD_WIDTH = 64
"""The paper's head size at 125M: the widest head that `at_width` makes."""


def _size(
    n_layers: int, d_model: int, n_heads: int, max_seq_len: int, vocab_size: int
) -> Mapping[str, Any]:
    return {
        "n_layers": n_layers,
        "d_model": d_model,
        "n_heads": n_heads,
        "d_ff": 4 * d_model,
        "max_seq_len": max_seq_len,
        "vocab_size": vocab_size,
    }


SIZES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "nano": _size(6, 64, 4, 64, 256),
        "micro": _size(12, 128, 4, 128, 256),
        "mini": _size(12, 256, 8, 256, 256),
        "125M": _size(12, 768, 12, 2048, 51200),
        "355M": _size(24, 1024, 16, 2048, 51200),
        "1.3B": _size(24, 2048, 32, 2048, 51200),
        "2.7B": _size(32, 2560, 32, 2048, 51200),
    }
)
"""Size name → the fields of `ModelConfig` that make it. Bytes up to mini, the paper's vocabulary
from 125M on. The paper's 2.7B models use ReLU², which stays the user's override here."""


def model_config(arch: str, size: str, **overrides: Any) -> ModelConfig:
    """The config of a named architecture at a named size.

    Args:
        arch: A key of `NAMED`.
        size: A key of `SIZES`, or one at another width: `nano-d128` (see `at_width`).
        **overrides: Fields of `ModelConfig`, which win over both names and are taken literally:
            another `d_model` does not bring another `d_ff` (`nano-d128` does that). With
            `objective="masked"` the size's vocabulary has one id more, for the mask.

    Raises:
        ConfigError: A name or field is unknown, or the fields do not fit together.
    """
    named = one_of("architecture", arch, NAMED)
    fields = {**named, **_size_fields(size)}
    fields["d_ff"] += MORE_FFN.get(arch, 0)
    if overrides.get("objective") == "masked":
        fields["vocab_size"] += 1
    return ModelConfig(**{**fields, **overrides})


def names_width(size: str) -> bool:
    """Whether a size's label has a width: `nano-d128`."""
    return _AT_WIDTH.fullmatch(size) is not None


def size_labels(sizes: Iterable[str], widths: Iterable[int] = ()) -> list[str]:
    """Each size, or each at each width: `nano`, `nano-d128`; a size at its own width is itself.

    Raises:
        ConfigError: A size that names a width already is to be taken at another, or a width is
            none that a size can have.
    """
    labels = []
    for size in sizes:
        if widths and names_width(size):
            raise ConfigError(f"size {size!r} names its width: give no other.")
        for width in widths:
            _check_width(width)
        labels += [f"{size}-d{width}" for width in widths] or [size]
    return list(dict.fromkeys(map(_without_its_own_width, labels)))


def base_size(label: str) -> str:
    """The size without a width: `nano` of `nano-d128`."""
    parts = _AT_WIDTH.fullmatch(label)
    return parts["size"] if parts else label


def _without_its_own_width(label: str) -> str:
    size = base_size(label)
    return size if label == f"{size}-d{SIZES.get(size, {}).get('d_model')}" else label


def _size_fields(label: str) -> Mapping[str, Any]:
    parts = _AT_WIDTH.fullmatch(label)
    return at_width(parts["size"], int(parts["width"])) if parts else one_of("size", label, SIZES)


def at_width(size: str, d_model: int) -> dict[str, Any]:
    """A size's fields with another width, to be given to `model_config` as overrides.

    Layers and lengths stay, d_ff is 4·d_model, and there are as many heads as the size has unless
    a head would be wider than the paper's 64 channels; then as many as make them 64 wide.

    Raises:
        ConfigError: The size is unknown, or cannot have that width.
    """
    fields = dict(one_of("size", size, SIZES))
    _check_width(d_model)
    if d_model != fields["d_model"]:
        n_heads = max(fields["n_heads"], -(-d_model // HEAD_WIDTH))
        fields.update(d_model=d_model, d_ff=4 * d_model, n_heads=n_heads)
    return fields


def _check_width(width: int) -> None:
    if width % 2 or not 2 <= width <= WIDEST:
        raise ConfigError(
            f"width = {width}: a width is an even number from 2 to {WIDEST:,} that the heads "
            "divide, as 128."
        )
