"""Admin's initial weights of the skip, from one pass through the model (Liu et al., 2020)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from gradlab.models.init import generator_of
from gradlab.models.residual import Residual
from gradlab.models.transformer import Transformer

_SEQUENCES, _LONGEST = 4, 256
"""What the pass reads: enough to know a variance over it, d_model entries a token, to about 1 %."""


@torch.no_grad()
def profile(model: Transformer, seed: int) -> None:
    """Set each λ_resid to √(1 + Σ Var[branch]) over the branches before it.

    The pass is one without dropout, at λ_resid = 1, over tokens drawn evenly from the vocabulary:
    the paper takes them from the training text, which a model by itself does not know. Its sum
    begins with the variance of the model's input; like the published code this takes it as 1.
    The values are learned from there on.

    Args:
        model: At its initial values, with a vector λ_resid on every skip; changed in place.
        seed: Decides the tokens.
    """
    config = model.config
    shape = (_SEQUENCES, min(config.max_seq_len, _LONGEST))
    draw = generator_of(seed, "admin")
    tokens = torch.randint(config.vocab_size, shape, generator=draw, device="cpu")
    sums = [module for module in model.modules() if isinstance(module, Residual)]
    variances: list[Tensor] = []
    hooks = [module.register_forward_pre_hook(_note(variances)) for module in sums]
    was_training = model.training
    try:
        model.eval()(tokens.to(model.embed.weight.device))
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    total = torch.ones((), dtype=torch.float64, device="cpu")
    for module, variance in zip(sums, variances, strict=True):
        assert module.lambda_resid is not None  # as the config makes sure
        module.lambda_resid.fill_(total.sqrt().item())
        total += variance


def _note(variances: list[Tensor]) -> Callable[[nn.Module, tuple[Tensor, Tensor]], None]:
    """A hook on a residual sum that notes the variance of what is added, over all entries."""

    def hook(_: nn.Module, inputs: tuple[Tensor, Tensor]) -> None:
        variances.append(inputs[1].double().var(correction=0).cpu())

    return hook
