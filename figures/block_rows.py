"""What stands in a layer's diagram, and in which order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gradlab.models.config import NORMS, ModelConfig
from gradlab.models.cost import has_final_norm, layer_norms, placements

_ACTIVATIONS = {"gelu": "GELU", "relu2": "ReLU²", "geglu": "GeGLU"}

ATTENTION = (
    *("attn_norm", "attn_norm_scale", "qkv", "qkv_norm", "scores", "score_cap", "head_scale"),
    *("out", "output_scale", "attn_out_norm", "attn_scale", "attn_drop", "attn_residual"),
    *("attn_norm_after", "ffn_norm_between"),
)
FFN = (
    *("ffn_norm", "ffn_norm_scale", "fc1", "activation", "ffn_mid_norm", "fc2", "ffn_out_norm"),
    *("ffn_scale", "ffn_drop", "ffn_residual", "ffn_norm_after"),
)
BEFORE, AFTER = ("embed_norm",), ("final_norm", "logit_cap")
PLACES = (*BEFORE, *ATTENTION, *FFN, *AFTER)
"""The rows that a diagram can have, upwards: a sublayer's norm stands before it or after its sum,
HybridNorm's on the stream between both, the scale of the heads before W_O or after it."""


@dataclass(frozen=True)
class Row:
    """What stands at one height.

    Attributes:
        labels: What the boxes say, side by side; an empty one is no box, and none the sum ⊕.
        ops: The names of these operations in gradlab's tables.
        added: Whether plain Pre-LN and Post-LN lack them.
    """

    labels: tuple[str, ...]
    ops: tuple[str, ...]
    added: bool = False


def kinds_of_layer(config: ModelConfig) -> dict[str, ModelConfig]:
    """What a title says of them → a model of such layers alone: those before the last end bare."""
    counts = placements(config)
    if len(counts) == 1:
        return {"": config.replace(placement=next(iter(counts)))}
    first, last = counts
    return {
        f", first {counts[first]}": config.replace(placement=first, n_layers=counts[first]),
        f", last {counts[last]}": config.replace(
            placement=last, n_layers=counts[last], embed_norm=False
        ),
    }


def rows_of(config: ModelConfig) -> dict[str, Row]:
    """A layer's rows by their place, upwards, and what is around the layers."""
    kind = NORMS[config.norm]
    norm, short = kind.name, kind.short
    after = "_after" if config.placement == "post" else ""
    between = "_between" if config.placement == "hybrid" else after
    has_attn_norm, has_ffn_norm = layer_norms(config)
    scale = Row(("Head scale γ",), ("head_scale",), added=True)
    hats = config.weight_standardisation
    found = {
        "qkv": Row(tuple(_matrix(name, hats) for name in "QKV"), ("q", "k", "v"), hats),
        "scores": Row((_heads_label(config),), ("scores",)),
        "out": Row((f"Linear {_matrix('O', hats)}",), ("out",), hats),
        "attn_residual": Row((), ("attn_residual",)),
        "fc1": Row((f"Linear {_matrix('1', hats)}",), ("fc1",), hats),
        "activation": Row((_ACTIVATIONS[config.activation],), ("activation",)),
        "fc2": Row((f"Linear {_matrix('2', hats)}",), ("fc2",), hats),
        "ffn_residual": Row((), ("ffn_residual",)),
    }
    if has_attn_norm:
        found[f"attn_norm{after}"] = Row((norm,), ("attn_norm",))
    if has_ffn_norm:
        found[f"ffn_norm{between}"] = Row((norm,), ("ffn_norm",))
    if config.qkv_norm or config.qk_norm != "none":
        on_v = config.qkv_norm or config.qk_norm == "heads-and-v"
        labels = (short, short, short if on_v else "")
        found["qkv_norm"] = Row(labels, ("q_norm", "k_norm", "v_norm"), added=True)
    if config.head_scale != "none":
        found["head_scale" if config.head_scale == "heads" else "output_scale"] = scale
    if has_final_norm(config):
        found["final_norm"] = Row((norm,), ("final_norm",))
    for place, label in _added_rows(config, norm).items():
        # ReZero's factor on the attention is the FFN's too.
        op = "attn_scale" if label == _BRANCH_SCALES["rezero"] else place
        found[place] = Row((label,), (op,), added=True)
    return {place: found[place] for place in PLACES if place in found}


def _added_rows(config: ModelConfig, norm: str) -> dict[str, str]:
    """Place → label of the boxes that plain blocks lack and that have a row to themselves."""
    labels = {
        "embed_norm": norm if config.embed_norm else None,
        "attn_out_norm": norm if config.attn_out_norm else None,
        "ffn_mid_norm": norm if config.ffn_mid_norm else None,
        "ffn_out_norm": norm if config.ffn_out_norm else None,
        "score_cap": f"Score cap {config.score_cap:g}" if config.score_cap else None,
        "logit_cap": f"Logit cap {config.logit_cap:g}" if config.logit_cap else None,
    }
    for sublayer in ("attn", "ffn"):
        labels[f"{sublayer}_norm_scale"] = "÷ √layer" if config.ln_scaling else None
        labels[f"{sublayer}_scale"] = _BRANCH_SCALES[config.branch_scale]
        labels[f"{sublayer}_drop"] = "Drop path" if config.stochastic_depth else None
    return {place: label for place, label in labels.items() if label is not None}


_BRANCH_SCALES = {"none": None, "rezero": "Scale $a$", "layerscale": "Scale λ"}


def _matrix(name: str, has_hat: bool) -> str:
    return rf"$\hat{{W}}_{name}$" if has_hat else f"$W_{name}$"


def _heads_label(config: ModelConfig) -> str:
    """Causal attention is what is usual, and not said."""
    heads = f"{config.n_heads} head{'s' if config.n_heads > 1 else ''}"
    return heads if config.is_causal else f"{heads}, both ways"


def on_skip(config: ModelConfig, sublayer: Sequence[str]) -> tuple[str, str] | None:
    """Label and op of what stands on the residual stream past a sublayer, if something does."""
    if config.skip_scale != "one":
        return "α ·", "skip_scale"
    if config.res_scale == "none" or (
        sublayer is ATTENTION and not config.res_scale.startswith("both")
    ):
        return None
    return "λ ·" if config.res_scale.endswith("-scalar") else "λ ⊙", "lambda_resid"


def has_added(config: ModelConfig, rows: Mapping[str, Row]) -> bool:
    """Whether anything in a diagram is marked as added."""
    return on_skip(config, FFN) is not None or any(row.added for row in rows.values())
