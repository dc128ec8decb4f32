"""Multi-head self-attention: the same projections around two ways to mix the values.

`MaterialisedAttention` has the scores as a tensor in the matrix products' dtype, where they can
overflow as in the paper; `FusedAttention` leaves them to a kernel that keeps them in fp32. A causal
model's queries see the places up to their own, a masked one's see all.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradlab.errors import one_of
from gradlab.models.causal import masked
from gradlab.models.config import ModelConfig
from gradlab.models.cost import head_norms, head_scales
from gradlab.models.linear import make_linear
from gradlab.models.norms import make_norm
from gradlab.models.numerics import at_least_fp32, cast, optional
from gradlab.models.soft_cap import make_cap


def _scale(q: Tensor) -> float:
    """d_head^-½."""
    return 1 / math.sqrt(q.shape[-1])


class Scores(nn.Module):
    """q·kᵀ with q scaled by d_head^-½ beforehand, not yet masked.

    Args:
        causal: Whether those of later places go unused; kept as `.causal`.
    """

    def __init__(self, *, causal: bool) -> None:
        super().__init__()
        self.causal = causal

    def forward(self, q: Tensor, k: Tensor) -> Tensor:
        """(B, H, T, d_head) twice → (B, H, T, T)."""
        return (q * _scale(q)) @ k.transpose(-2, -1)


class Softmax(nn.Module):
    """Softmax over all places, computed in fp32 or wider."""

    def forward(self, scores: Tensor, dtype: torch.dtype) -> Tensor:
        """(B, H, T, T) scores → (B, H, T, T) probabilities in `dtype`."""
        return cast(F.softmax(scores, dim=-1, dtype=at_least_fp32(dtype)), dtype)


class CausalSoftmax(Softmax):
    """Softmax over the places up to one's own, computed in fp32 or wider.

    Masked places are filled, not added to: +inf there plus an additive −inf would be NaN.
    """

    mask: Tensor

    def __init__(self, max_seq_len: int) -> None:
        super().__init__()
        self.max_seq_len = max_seq_len
        self.register_buffer("mask", self._later_places(torch.get_default_device()), False)

    def forward(self, scores: Tensor, dtype: torch.dtype) -> Tensor:
        """(B, H, T, T) scores → (B, H, T, T) probabilities in `dtype`."""
        length = scores.shape[-1]
        return super().forward(masked(scores, self.mask[:length, :length]), dtype)

    def _later_places(self, device: torch.device) -> Tensor:
        shape = (self.max_seq_len, self.max_seq_len)
        mask = torch.ones(shape, dtype=torch.bool, device=device)
        return mask if mask.is_meta else mask.triu(1)  # which is slow where nothing is computed

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        # A model that leaves the meta device gets empty memory: the mask is made anew.
        self.mask = self._later_places(self.mask.device)
        return self


class Context(nn.Module):
    """The values mixed by the attention probabilities: h_i = softmax(…)·v_i."""

    def forward(self, probabilities: Tensor, v: Tensor) -> Tensor:
        """(B, H, T, T) and (B, H, T, d_head) → (B, H, T, d_head)."""
        return probabilities @ v


class FusedContext(nn.Module):
    """Scores, mask, softmax and mixing in one kernel of `scaled_dot_product_attention`."""

    def __init__(self, dropout: float, *, causal: bool) -> None:
        super().__init__()
        self.dropout = dropout
        self.causal = causal

    def forward(self, q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None = None) -> Tensor:
        """(B, H, T, d_head) three times → (B, H, T, d_head); `visible` as of `Attention`."""
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(
            q * _scale(q), k, v, visible, dropout, is_causal=self.causal, scale=1.0
        )


class HeadScale(nn.Module):
    """γ_i on the i-th of H equal blocks of channels (NormFormer, HeadScaleMHA): `gamma`, (H,)."""

    def __init__(self, n_heads: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(n_heads))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, d_model) → the same."""
        blocks = x.view(*x.shape[:-1], len(self.gamma), -1)  # (B, T, H, d_head)
        return (blocks * self.gamma[:, None]).view(x.shape)


class Attention(nn.Module, ABC):
    """MHA(x) = Concat(γ₁h₁, …, γ_Hh_H)·W^O, its γ only with `head_scale`.

    `head_scale = "heads"` is the paper's; `"output"` is the published fairseq code's, which
    scales blocks of d_head channels after W^O has mixed the heads. `qkv_norm` puts norms over
    d_model on the projected q, k and v ("+3 more LN", Table 4; Rybakov et al., 2024). `qk_norm`
    puts them on q and k alone: over each head's channels, shared by the heads (Henry et al., 2020;
    Dehghani et al., 2023), on v too (HybridNorm, Zhuo et al., 2025), or over d_model (OLMo 2).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d_model = config.d_model
        self.n_heads = config.n_heads
        self.q = make_linear(config, d_model, d_model)
        self.k = make_linear(config, d_model, d_model)
        self.v = make_linear(config, d_model, d_model)
        qk, v = (d_model, d_model) if config.qkv_norm else head_norms(config)
        self.norms_heads = config.qk_norm in ("heads", "heads-and-v")
        self.q_norm = make_norm(config.norm, qk) if qk else None
        self.k_norm = make_norm(config.norm, qk) if qk else None
        self.v_norm = make_norm(config.norm, v) if v else None
        self.head_scale_place = config.head_scale
        gammas = head_scales(config)
        self.head_scale = HeadScale(gammas) if gammas else None
        self.out = make_linear(config, d_model, d_model)

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """(B, T, d_model) → the same; in a causal model position t sees positions up to t.

        Args:
            x: (B, T, d_model).
            visible: (B, 1, 1, T) bool, False at places that no other sees; of a masked model.
        """
        q = self._heads(self.q_norm, self.q(x))  # (B, H, T, d_head)
        k = self._heads(self.k_norm, self.k(x))
        v = self._heads(self.v_norm, self.v(x))
        heads = self.attend(q, k, v, visible).transpose(1, 2).flatten(2)  # (B, T, d_model)
        if self.head_scale_place == "output":
            return optional(self.head_scale, self.out(heads))
        y: Tensor = self.out(optional(self.head_scale, heads))
        return y

    @abstractmethod
    def attend(self, q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None = None) -> Tensor:
        """The heads h_1 … h_H: (B, H, T, d_head) three times → the same."""

    def _heads(self, norm: nn.Module | None, x: Tensor) -> Tensor:
        """(B, T, d_model) → (B, H, T, d_head), normed before or after they are split."""
        if self.norms_heads:
            return optional(norm, self._split(x))
        return self._split(optional(norm, x))

    def _split(self, x: Tensor) -> Tensor:
        """(B, T, d_model) → (B, H, T, d_head)."""
        return x.view(*x.shape[:-1], self.n_heads, -1).transpose(1, 2)


class MaterialisedAttention(Attention):
    """Attention whose scores and probabilities are tensors that a hook can reach."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.scores = Scores(causal=config.is_causal)
        self.score_cap = make_cap(config.score_cap)
        self.softmax = CausalSoftmax(config.max_seq_len) if config.is_causal else Softmax()
        self.context = Context()
        self.dropout = config.dropout

    def attend(self, q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None = None) -> Tensor:
        """Softmax(q·kᵀ)·v."""
        scores, dtype = self.scores(q, k), self.q.weight.dtype
        if self.score_cap is not None:
            scores = self.score_cap(scores, dtype)
        if visible is not None:
            scores = scores.masked_fill(~visible, -torch.inf)
        probabilities = self.softmax(scores, dtype)
        if self.dropout:
            probabilities = F.dropout(probabilities, self.dropout, self.training)
        heads: Tensor = self.context(probabilities, v)
        return heads


class FusedAttention(Attention):
    """Attention by one fused kernel: only its output can be reached."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.context = FusedContext(config.dropout, causal=config.is_causal)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None = None) -> Tensor:
        """Softmax(q·kᵀ)·v."""
        heads: Tensor = self.context(q, k, v, visible)
        return heads


_PATHS: dict[str, type[Attention]] = {
    "materialised": MaterialisedAttention,
    "sdpa": FusedAttention,
}


def make_attention(config: ModelConfig) -> Attention:
    """The attention sublayer that the config asks for.

    Raises:
        ConfigError: Its kind is unknown.
    """
    return one_of("attention", config.attention, _PATHS)(config)
