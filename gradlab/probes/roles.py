"""Which layer and which operation a parameter or a site belongs to, read off its name."""

import re

_LEAVES = frozenset({"weight", "bias", "gamma"})

# Names that other models give to what has a name in ours, so that its rows are found under the same
# op; and those that say too little on their own. "#" is a number: fairseq's `final_layer_norm`
# stands before the FFN, OPT's and T5's of that name outside the layers at the end, and GPT-2's
# `c_attn` is no head scale.
_OWN_NAMES = {
    "q": ("q_proj", "query", "q_lin", "q_proj_weight"),
    "k": ("k_proj", "key", "k_lin", "k_proj_weight"),
    "v": ("v_proj", "value", "v_lin", "v_proj_weight"),
    "in_proj": ("in_proj_weight", "in_proj_bias"),
    "out": ("out_proj", "o_proj", "out_lin", "attn.c_proj", "attn.proj", "attention.output.dense"),
    "fc1": ("linear1", "c_fc", "up_proj", "intermediate.dense"),
    "fc2": ("linear2", "mlp.c_proj", "down_proj", "output.dense"),
    "attn_norm": ("attention.output.LayerNorm", "self_attn_layer_norm"),
    "attn_out_norm": ("attn_ln",),
    "ffn_norm": ("output.LayerNorm", "#.final_layer_norm"),
    "ffn_mid_norm": ("ffn_layernorm",),
    "head_scale": ("#.c_attn",),
    "lambda_resid": ("w_resid",),
    "final_norm": ("decoder.layer_norm", "final_layer_norm"),
    "embed": ("embed_tokens",),
    "positions": ("embed_positions",),
}
_OPS = {name: op for op, names in _OWN_NAMES.items() for name in names}

_RECURRENT = re.compile(r"((?:weight|bias)_(?:ih|hh|hr))_l(\d+)((?:_reverse)?)")
"""nn.LSTM's parameters, all in one module: `weight_ih_l0`, `bias_hh_l1_reverse`."""


def role(name: str) -> tuple[int | None, str]:
    """The 0-based layer (None outside the blocks) and the op that a dotted name says.

    The layer is the first number in the name. The op is the last component that is neither a
    number nor a plain `weight`, `bias` or `gamma`: that gives the names of our own models their
    roles. The usual names of the matrices of other transformers become ours, and any other name
    stands for itself, with the number behind it where that is not the layer, and DyT's `alpha` with
    the name of what has it.

    >>> role("blocks.3.attention.scores")
    (3, 'scores')
    >>> role("embed.weight")
    (None, 'embed')
    >>> role("transformer.h.7.mlp.c_proj.weight")
    (7, 'fc2')
    >>> role("layers.2.ffn.0.weight")
    (2, 'ffn.0')
    >>> role("blocks.3.attn_norm.alpha")
    (3, 'attn_norm.alpha')
    """
    name, bracket, index = name.partition("[")  # one of a module's several outputs
    parts = name.split(".")
    layer_at = next((at for at, part in enumerate(parts) if part.isdigit()), None)
    layer = None if layer_at is None else int(parts[layer_at])
    if match := _RECURRENT.fullmatch(parts[-1]):
        return int(match[2]) if layer is None else layer, match[1] + match[3]
    return layer, _op(parts, layer_at) + bracket + index


def _op(parts: list[str], layer_at: int | None) -> str:
    words = [at for at, part in enumerate(parts) if not part.isdigit()]
    named = [at for at in words if parts[at] not in _LEAVES]
    if not words:
        return parts[-1]
    last = (named or words)[-1]
    if parts[last] == "alpha" and last and not parts[last - 1].isdigit():
        return f"{_op(parts[:last], layer_at)}.alpha"
    plain = ["#" if part.isdigit() else part for part in parts[: last + 1]]
    for length in (3, 2, 1):  # the longest name says most
        if op := _OPS.get(".".join(plain[-length:])):
            return op
    behind = range(last + 1, len(parts))
    numbers = [parts[at] for at in behind if parts[at].isdigit() and at != layer_at]
    return ".".join([parts[last], *numbers])
