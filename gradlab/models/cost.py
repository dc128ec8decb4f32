"""What a model costs, in closed form from its config: parameters, FLOPs, memory. Needs no torch."""

from gradlab.errors import one_of
from gradlab.models.config import NORMS, ModelConfig

BYTES_PER_PARAMETER = {
    "fp32": 4 + 4 + 8,
    "fp16-pure": (2 + 2) + (4 + 4) + 8,
}
"""Weights, gradients and Adam's two fp32 moments. `fp16-pure` holds fp16 weights and gradients
for the model and fp32 copies of both for the optimizer, so it saves activations, not these."""


_SCALED = {
    "none": (False, False),
    "ffn": (False, True),
    "both": (True, True),
    "ffn-scalar": (False, True),
    "both-scalar": (True, True),
}
"""Whether the skips of attention and FFN have a λ_resid, by `res_scale`."""


def lambda_sizes(config: ModelConfig) -> tuple[int, int]:
    """Entries of λ_resid on the skips of attention and FFN, 0 where there is none.

    Raises:
        ConfigError: The kind is unknown.
    """
    size = 1 if config.res_scale.endswith("-scalar") else config.d_model
    attention, ffn = one_of("res_scale", config.res_scale, _SCALED)
    return attention * size, ffn * size


def layer_norms(config: ModelConfig) -> tuple[bool, bool]:
    """Whether a layer has an `attn_norm` and an `ffn_norm`, before a sublayer or after its sum.

    Raises:
        ConfigError: The placement is unknown.
    """
    norms = {
        "pre": (True, True),
        "post": (True, True),
        "mix": (True, True),
        "hybrid": (False, True),
        "none": (False, False),
    }
    return one_of("placement", config.placement, norms)


def has_final_norm(config: ModelConfig) -> bool:
    """Whether a norm stands after the last layer: where none is on the stream itself there.

    A model whose layers have no norm at all has none at the end either.

    Raises:
        ConfigError: The placement is unknown.
    """
    has_norms = any(layer_norms(config)) or config.attn_out_norm or config.ffn_out_norm
    return has_norms and config.placement != "post"


def placements(config: ModelConfig) -> dict[str, int]:
    """How many layers have which placement, from the first layer on.

    Mix-LN has Post-LN's in the first ⌊L/4⌋, the share that its paper recommends (Li et al., 2024).
    """
    if config.placement != "mix":
        return {config.placement: config.n_layers}
    first = config.n_layers // 4
    counts = {"post": first, "pre": config.n_layers - first}
    return {placement: count for placement, count in counts.items() if count}


def placement_of(config: ModelConfig, layer: int) -> str:
    """The placement in a 0-based layer."""
    first, *rest = placements(config).items()
    return first[0] if layer < first[1] or not rest else rest[0][0]


def branch_scales(config: ModelConfig) -> int:
    """Entries of a layer's factors on its branches: ReZero shares one, LayerScale has two vectors.

    Raises:
        ConfigError: The kind is unknown.
    """
    sizes = {"none": 0, "rezero": 1, "layerscale": 2 * config.d_model}
    return one_of("branch_scale", config.branch_scale, sizes)


def head_norms(config: ModelConfig) -> tuple[int, int]:
    """Channels of the norms of `qk_norm` on queries and keys, and on values; 0 where there is none.

    Raises:
        ConfigError: The kind is unknown.
    """
    d_head, d_model = config.d_model // config.n_heads, config.d_model
    channels = {
        "none": (0, 0),
        "heads": (d_head, 0),
        "width": (d_model, 0),
        "heads-and-v": (d_head, d_head),
    }
    return one_of("qk_norm", config.qk_norm, channels)


def head_scales(config: ModelConfig) -> int:
    """Entries of γ on the heads, 0 where there is none.

    Raises:
        ConfigError: The kind is unknown.
    """
    n_heads = config.n_heads
    kinds = {"none": 0, "heads": n_heads, "output": n_heads}
    return one_of("head_scale", config.head_scale, kinds)


def fc1_width(config: ModelConfig) -> int:
    """Outputs of the FFN's first map: twice d_ff with a gate.

    Raises:
        ConfigError: The activation is unknown.
    """
    halves = one_of("activation", config.activation, {"gelu": 1, "relu2": 1, "geglu": 2})
    return halves * config.d_ff


def parameter_count(config: ModelConfig) -> int:
    """Parameters of a model, tied ones once: the number that `build_model` makes.

    Raises:
        ConfigError: A kind in the config is unknown.
    """
    d_model = config.d_model
    positions = {"sinusoidal": 0, "learned": config.max_seq_len * d_model}
    around = config.embed_norm + has_final_norm(config)
    return (
        config.vocab_size * d_model
        + config.n_layers * _layer_parameters(config)
        + one_of("positions", config.positions, positions)
        + around * _norm(config, d_model)
    )


def _norm(config: ModelConfig, width: int) -> int:
    return one_of("norm", config.norm, NORMS).parameters(width)


def _layer_matrices(config: ModelConfig) -> int:
    """Entries of a layer's weight matrices: q, k, v, out, fc1, fc2."""
    d_model = config.d_model
    return 4 * d_model**2 + d_model * (fc1_width(config) + config.d_ff)


def _layer_parameters(config: ModelConfig) -> int:
    d_model, d_ff = config.d_model, config.d_ff
    total = _layer_matrices(config)
    total += 4 * d_model + fc1_width(config) + d_model  # biases: q k v out, fc1, fc2
    over_width = sum(layer_norms(config)) + config.attn_out_norm + config.ffn_out_norm
    total += (over_width + 3 * config.qkv_norm) * _norm(config, d_model)
    if config.ffn_mid_norm:
        total += _norm(config, d_ff)
    qk, v = head_norms(config)
    total += sum(_norm(config, channels) for channels in (qk, qk, v) if channels)
    return total + head_scales(config) + sum(lambda_sizes(config)) + branch_scales(config)


def flops_per_token(config: ModelConfig) -> int:
    """Floating-point operations of training on one token, forward and backward, at full length.

    6 · (entries of all weight matrices, the tied output included) for the products with weights:
    2 forward, and twice that backward; 12 · n_layers · d_model · max_seq_len for the scores and
    the mixing of values, computed for all pairs, masked ones too. Norms, softmax and the optimizer
    are left out, as is usual (Kaplan et al. 2020, table 1; Chowdhery et al. 2022, appendix B).
    """
    matrices = config.n_layers * _layer_matrices(config) + config.vocab_size * config.d_model
    return 6 * matrices + 12 * config.n_layers * config.d_model * config.max_seq_len


def training_state_bytes(config: ModelConfig, precision: str) -> int:
    """Bytes of weights, gradients and optimizer state; activations come on top.

    Args:
        config: The model.
        precision: A key of `BYTES_PER_PARAMETER`; fp16 and bf16 keep fp32 weights, so they cost
            what fp32 does.

    Raises:
        ConfigError: The precision is not among them.
    """
    return one_of("precision", precision, BYTES_PER_PARAMETER) * parameter_count(config)
