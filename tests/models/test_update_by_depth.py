"""How far a first step moves the model as it gets deeper: DeepNorm's bound (Wang et al., 2022).

Theorem: ‖ΔF‖ ≤ Σ √(v² + w²) / α · ‖Δθ‖, over the 2L sublayers, with α = (2L)^¼ and v = w =
(8L)^-¼. SGD moves θ by lr · ‖∂F/∂θ‖, another factor of that kind, and the sum is a constant.
Not in the theorem: Adam's first step moves every entry by lr, whatever its gradient, so that one
factor √(v² + w²) / α ~ L^-½ is missing; an FFN's or attention's bias has no v or w in front, and a
norm's γ and β no α either, so that their shares of the sum grow as L^½ and as L.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gradlab.models.build import build_model
from gradlab.models.presets import model_config

Chosen = Callable[[str, Tensor], bool]

TIMES = 4
"""As many layers."""


def weights(name: str, parameter: Tensor) -> bool:
    return parameter.dim() == 2


def biases(name: str, parameter: Tensor) -> bool:
    return parameter.dim() == 1 and "norm" not in name


def norms(name: str, parameter: Tensor) -> bool:
    return "norm" in name


def update(
    arch: str, layers: int, chosen: Chosen, kind: Callable[..., torch.optim.Optimizer]
) -> float:
    """‖ΔF‖ / lr after one step of the chosen parameters of the layers, F being the logits."""
    shape = {"d_model": 16, "n_layers": layers, "n_heads": 2, "d_ff": 64, "max_seq_len": 8}
    model = build_model(model_config(arch, "nano", **shape), seed=0, dtype=torch.float64)
    tokens, targets = torch.randint(256, (2, 4, 8), generator=torch.Generator().manual_seed(0))
    before = model(tokens)
    F.cross_entropy(before.flatten(0, 1), targets.flatten()).backward()
    named = model.blocks.named_parameters()
    lr = 1e-8  # so small that only the first order counts
    kind([p for name, p in named if chosen(name, p)], lr=lr).step()
    with torch.no_grad():
        return ((model(tokens) - before).norm() / lr).item()


@pytest.mark.parametrize(
    ("chosen", "kind", "power"),
    [
        (weights, torch.optim.SGD, 0.0),
        (weights, torch.optim.Adam, 0.5),
        (biases, torch.optim.SGD, 0.5),
        (norms, torch.optim.SGD, 1.0),
    ],
)
def test_deepnorms_first_update_grows_by_the_power_of_depth_that_theory_has(
    chosen: Chosen, kind: Callable[..., torch.optim.Optimizer], power: float
) -> None:
    shallow, deep = (update("deepnorm", layers, chosen, kind) for layers in (8, 8 * TIMES))
    assert deep / shallow == pytest.approx(TIMES**power, rel=0.3)


def test_post_lns_first_update_is_many_times_as_large() -> None:
    post, deepnorm = (
        update(arch, 8 * TIMES, weights, torch.optim.SGD) for arch in ("post-ln", "deepnorm")
    )
    assert post > 10 * deepnorm
