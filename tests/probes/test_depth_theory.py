"""What theory has for a transformer's depth at its initial values (Xiong et al., 2020).

Their setting: W_q = W_k = 0, Xavier's normal weights, d_ff = d, ReLU, no biases, the input N(0, I).
"""

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradlab
from gradlab.models.build import build_model
from gradlab.models.presets import model_config
from gradlab.models.transformer import Transformer
from gradlab.probes import GradientNorms, HiddenStates

WIDTH = 64


class Relu(nn.Module):
    def forward(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        return x.relu()


def model_of(arch: str, layers: int, seed: int = 0) -> Transformer:
    shape = {"d_model": WIDTH, "n_layers": layers, "n_heads": 1, "d_ff": WIDTH, "max_seq_len": 32}
    config = model_config(arch, "nano", **shape, positions="learned")
    model = build_model(config, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for block in model.blocks:
        block.feed_forward.activation = Relu()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("positions") or "bias" in name or ".q." in name or ".k." in name:
                parameter.zero_()
            elif parameter.dim() == 2:  # the embedding too, which the model multiplies by √d
                parameter.normal_(std=WIDTH**-0.5, generator=generator)
    return model


def one_step(model: Transformer, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`hidden` and `grad_norms` of a step on random tokens."""
    generator = torch.Generator().manual_seed(100 + seed)
    tokens, targets = torch.randint(256, (2, 8, 32), generator=generator)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with gradlab.attach(model, optimizer, probes=[HiddenStates(), GradientNorms()]) as probes:
        F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten()).backward()
        optimizer.step()
    return probes.table("hidden"), probes.table("grad_norms")


def test_the_variance_of_pre_ln_grows_by_a_half_to_three_halves_a_layer() -> None:
    """Lemma 2: (1 + l/2) d ≤ E‖x_l‖² ≤ (1 + 3l/2) d after l layers; Post-LN's is d."""
    layers = torch.arange(1, 9)
    squares: dict[str, Tensor] = {}
    for arch in ("pre-ln", "post-ln"):
        hidden, _ = one_step(model_of(arch, 8))
        squares[arch] = torch.tensor((hidden["std"] ** 2 + hidden["mean"] ** 2).to_numpy())
        assert hidden["input_std"][0] == pytest.approx(1, rel=0.05)
    room = 0.15  # one draw of the weights, not the mean over draws
    assert (squares["pre-ln"] >= (1 - room) * (1 + layers / 2)).all()
    assert (squares["pre-ln"] <= (1 + room) * (1 + 3 * layers / 2)).all()
    torch.testing.assert_close(
        squares["post-ln"], torch.ones(8, dtype=torch.float64), rtol=1e-3, atol=0
    )


@pytest.mark.parametrize(
    ("arch", "low", "high"),
    # ‖x_L‖ of Pre-LN, which its final norm divides by, grows as in lemma 2.
    # Post-LN's is a bound: where tokens become alike with depth, their gradients add up.
    [("post-ln", 0.5, 1.25), ("pre-ln", (9 / 3) ** 0.5 * 0.85, (25 / 7) ** 0.5 * 1.15)],
)
def test_the_gradient_of_the_last_ffn_weight(arch: str, low: float, high: float) -> None:
    """Theorem 1: O(d √ln d) in Post-LN, whatever the depth; O(d √(ln d / L)) in Pre-LN."""

    def last(layers: int) -> float:
        found = []
        for seed in range(3):
            _, grads = one_step(model_of(arch, layers, seed), seed)
            rows = grads[grads["param"] == f"blocks.{layers - 1}.feed_forward.fc2.weight"]
            found.append(rows["grad_l2"].item())
        return sum(found) / len(found)

    assert low < last(4) / last(16) < high


def test_the_gradients_of_pre_ln_are_alike_in_all_layers_and_post_lns_are_not() -> None:
    """The same, by layer: Post-LN's shrink by a constant factor from the last layer on."""
    spread = {}
    for arch in ("pre-ln", "post-ln"):
        _, grads = one_step(model_of(arch, 16))
        rows = grads[(grads["op"] == "fc2") & ~grads["param"].str.endswith("bias")]
        by_layer = rows.set_index("layer")["grad_l2"]
        spread[arch] = by_layer.iloc[-4:].mean() / by_layer.iloc[:4].mean()
    assert spread["post-ln"] > 3 * spread["pre-ln"]


def test_equal_tokens_stay_equal_at_any_depth() -> None:
    """With attention to oneself alone there is nothing that could tell them apart again."""
    model = nn.Sequential(*[nn.Linear(8, 8) for _ in range(3)])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with gradlab.attach(model, optimizer, probes=[HiddenStates()]) as probes:
        model(torch.ones(2, 5, 8)).square().sum().backward()
        optimizer.step()
    assert probes.table("hidden")["cosine"].tolist() == pytest.approx([1.0] * 3)
