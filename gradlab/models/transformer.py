"""The language model: a stack of blocks between tied embeddings."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from gradlab.errors import GradlabError, one_of
from gradlab.models.blocks import make_block
from gradlab.models.config import ModelConfig
from gradlab.models.cost import has_final_norm
from gradlab.models.linear import linear
from gradlab.models.norms import make_norm
from gradlab.models.numerics import optional
from gradlab.models.positions import LearnedPositions, SinusoidalPositions
from gradlab.models.soft_cap import make_cap


class Unembed(nn.Module):
    """Logits as dot products with the token embeddings: tied, so it has no parameter."""

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """(B, T, d_model) and (vocab, d_model) → (B, T, vocab)."""
        return linear(x, embedding)


_POSITIONS: dict[str, Callable[[int, int], nn.Module]] = {
    "sinusoidal": SinusoidalPositions,
    "learned": LearnedPositions,
}


class Embedding(nn.Embedding):
    """(...) int64 → (..., d_model), a row each."""

    def reset_parameters(self) -> None:
        """Torch's initial values; on `meta`, which has none, torch would import its compiler."""
        if not self.weight.is_meta:
            super().reset_parameters()


class Transformer(nn.Module):
    """√d·E[token] + position, n_layers blocks, a final norm but for Post-LN, logits tied to E.

    Its parameters start as torch's layers do; `gradlab.build_model` gives them initial values.

    Args:
        config: Shape and switches; kept as `.config`.

    Raises:
        ConfigError: A kind in the config is unknown.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed: nn.Embedding = Embedding(config.vocab_size, config.d_model)
        positions = one_of("positions", config.positions, _POSITIONS)
        self.positions = positions(config.max_seq_len, config.d_model)
        norm, d_model = config.norm, config.d_model
        self.embed_norm = make_norm(norm, d_model) if config.embed_norm else None
        self.blocks = nn.ModuleList(make_block(config, layer) for layer in range(config.n_layers))
        self.final_norm = make_norm(norm, d_model) if has_final_norm(config) else None
        self.unembed = Unembed()
        self.logit_cap = make_cap(config.logit_cap)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) int64 token ids → (B, T, vocab) logits.

        Raises:
            GradlabError: T is longer than the model's `max_seq_len`.
        """
        return self.logits(self.states(tokens))

    def states(self, tokens: Tensor, visible: Tensor | None = None) -> Tensor:
        """(B, T) int64 token ids → (B, T, d_model), the stream after the final norm.

        Args:
            tokens: (B, T).
            visible: (B, T) bool, False where a token is padding, which no place of a masked model
                sees then. A causal model needs none: padding stands behind, where nobody looks.

        Raises:
            GradlabError: As `forward`.
        """
        config, length = self.config, tokens.shape[-1]
        if length > config.max_seq_len:
            raise GradlabError(
                f"a sequence of {length} tokens is longer than the model's max_seq_len = "
                f"{config.max_seq_len}: shorten it, or build the model with a larger max_seq_len."
            )
        x = config.d_model**0.5 * self.embed(tokens) + self.positions(length)  # (B, T, d_model)
        x = optional(self.embed_norm, x)
        if config.dropout:
            x = F.dropout(x, config.dropout, self.training)
        for block in self.blocks:
            x = block(x) if visible is None else block(x, visible[:, None, None])
        return optional(self.final_norm, x)

    def logits(self, states: Tensor) -> Tensor:
        """(..., d_model) states → (..., vocab) logits."""
        logits: Tensor = self.unembed(states, self.embed.weight)
        if self.logit_cap is not None:
            logits = self.logit_cap(logits, self.embed.weight.dtype)
        return logits
