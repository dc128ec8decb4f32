"""Which tokens a masked model is to find again, and what stands in their place."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from gradlab.models.loss import UNCHOSEN

CHOSEN = 0.15
"""Share of the tokens that a masked model finds again (Devlin et al., 2019; RoBERTa)."""


def chosen_of(tokens: int) -> int:
    """How many of a batch's tokens are chosen: 15 %, rounded, and at least one."""
    return max(1, round(CHOSEN * tokens))


@dataclass(frozen=True)
class Masking:
    """What is put in the place of tokens.

    Attributes:
        mask_id: The mask token's id.
        ordinary: The ids that a random token is one of, shape (ids,): all but special ones.
    """

    mask_id: int
    ordinary: NDArray[np.int64]

    def apply(
        self, windows: torch.Tensor, generator: np.random.PCG64
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Choose 15 % of the tokens, and replace eight of ten by the mask, one by a random token.

        Each micro-batch has as many chosen ones (`chosen_of`), so that the mean over micro-batches
        is the mean over tokens. (fairseq rounds up or down by chance, sequence by sequence.) Which,
        and what becomes of each, is drawn by raw words, as offsets are (`train_batch`).

        Args:
            windows: Tokens, (B, T) int64.
            generator: Of these masks alone; moved on.

        Returns:
            Inputs; and targets, the tokens at the chosen places and `UNCHOSEN` at all others. Both
            (B, T) int64.
        """
        count = chosen_of(windows.numel())
        order = np.argsort(generator.random_raw(windows.numel()), kind="stable")
        places = torch.from_numpy(order[:count])
        becomes = generator.random_raw(count) % np.uint64(10)
        at = (generator.random_raw(count) % np.uint64(self.ordinary.size)).astype(np.int64)
        tokens = windows.flatten()
        chosen = tokens[places]
        inputs, targets = tokens.clone(), torch.full_like(tokens, UNCHOSEN)
        shown = np.select(
            [becomes < 8, becomes == 8], [self.mask_id, self.ordinary[at]], chosen.numpy()
        )
        inputs[places] = torch.from_numpy(shown)
        targets[places] = chosen
        return inputs.view(windows.shape), targets.view(windows.shape)
