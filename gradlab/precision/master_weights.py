"""fp32 copies of half-precision weights, which the optimizer updates in their place."""

import torch
from torch import Tensor, nn

from gradlab.parallel.spread import own_part


class MasterWeights:
    """The fp32 parameters that an optimizer holds for a model whose own are narrower.

    Around each step::

        optimizer = torch.optim.AdamW(masters.parameters, fused=True)
        ...                              # the model's backward pass fills its fp16 gradients
        masters.take_gradients()
        scaler.step(optimizer)           # unscales and checks the fp32 gradients
        masters.write_back()

    With `keep`, an update smaller than an fp16 weight's spacing is remembered and adds up (mixed
    precision training, Micikevicius et al. 2018, section 3.1). Without, each update is rounded to
    the model's dtype at once, so that small ones are lost: fairseq's `--memory-efficient-fp16`.
    Nothing here reads a value on the host.

    Attributes:
        parameters: fp32 parameters, one for each of `model.parameters()` that requires a
            gradient, in their order, a tied one once.
        keep: Whether the masters outlive the step unrounded.
    """

    def __init__(self, model: nn.Module, keep: bool = True) -> None:
        self.keep = keep
        self._weights = [weight for weight in model.parameters() if weight.requires_grad]
        self.parameters = [
            nn.Parameter(weight.detach().to(torch.float32, copy=True)) for weight in self._weights
        ]

    def take_gradients(self) -> None:
        """Make the masters' gradients the model's, widened; None where the model has none.

        The gradients are copies: still scaled by the loss scale, inf and NaN included.
        """
        taken: list[Tensor] = []
        given: list[Tensor] = []
        for weight, master in zip(self._weights, self.parameters, strict=True):
            if weight.grad is None:
                master.grad = None
                continue
            if master.grad is None:
                master.grad = torch.empty_like(master)
            taken.append(master.grad)
            given.append(weight.grad)
        if taken:
            torch._foreach_copy_([*map(own_part, taken)], [*map(own_part, given)])

    @torch.no_grad()
    def write_back(self) -> None:
        """Round the masters into the model's weights, to nearest; past 65504 that gives inf.

        Without `keep` the masters then become the rounded values.
        """
        weights = [*map(own_part, self._weights)]
        masters = [*map(own_part, self.parameters)]
        torch._foreach_copy_(weights, masters)
        if not self.keep:
            torch._foreach_copy_(masters, weights)
