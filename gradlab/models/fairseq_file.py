"""fairseq's checkpoint files, read without running what they hold.

They are pickles. torch reads tensors and plain values of one and refuses every class in it; here
`argparse.Namespace` is allowed, by name, since fairseq keeps its options in one: it is made and its
attributes are set, and nothing is called.
"""

import argparse
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from gradlab.errors import GradlabError
from gradlab.models.config import Activation
from gradlab.models.fairseq import from_state_dict
from gradlab.models.transformer import Transformer
from gradlab.paths import as_path

ACTIVATIONS: Mapping[str, Activation] = {"gelu": "gelu", "relu_squared": "relu2"}
"""fairseq's `activation_fn` → ours."""

_ONLY = {
    "no_scale_embedding": False,
    "no_token_positional_embeddings": False,
    "adaptive_input": False,
    "character_embeddings": False,
}
"""Options that change what a model computes and leave no trace in its weights' names."""


def load_checkpoint(
    path: str | Path,
    *,
    n_heads: int | None = None,
    max_seq_len: int | None = None,
    activation: Activation | None = None,
) -> Transformer:
    """The model in a checkpoint that fairseq saved for a language model, `checkpoint_best.pt`.

    See `gradlab.models.fairseq.from_state_dict` for what becomes of its weights.

    Args:
        path: The file.
        n_heads: Attention heads; those of the file's options unless given.
        max_seq_len: Longest sequence, likewise (`max_target_positions`, or `tokens_per_sample`).
        activation: `gelu` or `relu2`, likewise.

    Raises:
        GradlabError: There is no such file, it is none of fairseq's, or it holds what is not read;
            its options do not say what is not given, or are of a model that gradlab does not have.
    """
    path = as_path(path)
    checkpoint = _read(path)
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("model"), dict):
        raise GradlabError(f"{path} is no checkpoint of fairseq: it has no 'model'.")
    weights, options = checkpoint["model"], _options(checkpoint)
    for name, value in _ONLY.items():
        if options.get(name, value) != value:
            raise GradlabError(f"{path} was trained with {name}, which gradlab has not.")
    is_pre_ln = any(key.endswith("layer_norm.weight") and "layers" not in key for key in weights)
    if options.get("decoder_normalize_before") and not is_pre_ln:
        raise GradlabError(f"{path} was trained with no_decoder_final_norm, which gradlab has not.")
    if activation is None:
        theirs = options.get("activation_fn")
        if theirs is not None and theirs not in ACTIVATIONS:
            raise GradlabError(f"{path} has the activation {theirs!r}, which gradlab has not.")
        activation = ACTIVATIONS.get(str(theirs))
    lengths = (options.get("max_target_positions"), options.get("tokens_per_sample"))
    given: dict[str, Any] = {
        "n_heads": n_heads or options.get("decoder_attention_heads"),
        "max_seq_len": max_seq_len or lengths[0] or lengths[1],
        "activation": activation,
    }
    if missing := [name for name, value in given.items() if value is None]:
        raise GradlabError(f"{path} does not say {', '.join(missing)}: give it to load_checkpoint.")
    return from_state_dict(weights, **given)


def _read(path: Path) -> Any:
    try:
        with (
            torch.serialization.safe_globals([argparse.Namespace]),
            warnings.catch_warnings(action="ignore"),  # of pickles that torch did not write
        ):
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise GradlabError(f"there is no checkpoint {path}.") from None
    except OSError as error:
        if error.filename is None:  # not of the file system: of a damaged file
            raise GradlabError(_refused(path)) from error
        raise GradlabError(f"{path} cannot be read: {error.strerror}.") from error
    except Exception as error:  # a damaged pickle can fail in any way
        raise GradlabError(_refused(path)) from error


def _refused(path: Path) -> str:
    """Why a file is not read, with the names of what is in it where they can be told."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            found = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # whatever a file that is no checkpoint makes of it
        found = []
    if not found:
        return (
            f"{path} is damaged, or no checkpoint that can be read without running what is in it."
        )
    return (
        f"{path} holds {', '.join(found[:3])}, which could run code: it is not read. Of a file "
        "that you trust, give the 'model' entry alone to gradlab.models.fairseq.from_state_dict."
    )


def _options(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """What fairseq says of the model: `args`, or since 2020 `cfg`."""
    options = checkpoint.get("args")
    if options is None:
        cfg = checkpoint.get("cfg")
        options = cfg.get("model") if isinstance(cfg, dict) else None
    if isinstance(options, argparse.Namespace):
        return vars(options)
    return dict(options) if isinstance(options, dict) else {}
