"""What a model costs, in closed form from its config: parameters, FLOPs, memory. Needs no torch."""

from gradlab.config import ModelConfig

BYTES_PER_PARAMETER = {
    "fp32": 4 + 4 + 8,
    "fp16-pure": (2 + 2) + (4 + 4) + 8,
}
"""Weights, gradients and Adam's two fp32 moments. `fp16-pure` holds fp16 weights and gradients
for the model and fp32 copies of both for the optimizer, so it saves activations, not these."""


def parameter_count(config: ModelConfig) -> int:
    """Parameters of a model, tied ones once: the number that `build_model` makes."""
    d_model = config.d_model
    total = config.vocab_size * d_model + config.n_layers * _layer_parameters(config)
    if config.positions == "learned":
        total += config.max_seq_len * d_model
    if config.placement == "pre":
        total += _norm(config, d_model)
    return total


def _norm(config: ModelConfig, width: int) -> int:
    return width if config.norm == "rmsnorm" else 2 * width


def _layer_matrices(config: ModelConfig) -> int:
    """Entries of a layer's weight matrices: q, k, v, out, fc1 (twice as wide with a gate), fc2."""
    halves = 2 if config.activation == "geglu" else 1
    return 4 * config.d_model**2 + (halves + 1) * config.d_model * config.d_ff


def _layer_parameters(config: ModelConfig) -> int:
    d_model, d_ff = config.d_model, config.d_ff
    halves = 2 if config.activation == "geglu" else 1
    total = _layer_matrices(config)
    total += 4 * d_model + halves * d_ff + d_model  # biases: q k v out, fc1, fc2
    total += 2 * _norm(config, d_model)  # attn_norm, ffn_norm
    if config.attn_out_norm:
        total += _norm(config, d_model)
    if config.ffn_mid_norm:
        total += _norm(config, d_ff)
    if config.qkv_norm:
        total += 3 * _norm(config, d_model)
    if config.head_scale != "none":
        total += config.n_heads
    if config.res_scale != "none":
        scaled = 2 if config.res_scale.startswith("both") else 1
        total += scaled * (1 if config.res_scale.endswith("-scalar") else d_model)
    return total


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
    """
    return BYTES_PER_PARAMETER[precision] * parameter_count(config)
