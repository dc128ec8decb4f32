"""A model with fairseq's names, recorded in a loop of one's own and read under gradlab's ops."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradlab
from gradlab.analyses.gradients import gradients_by_layer
from gradlab.analyses.scales import FIGURE_OPS, lambda_by_depth, scale_distributions, scale_entries
from gradlab.figures.lambda_resid import lambda_resid_by_depth
from gradlab.figures.scales import scale_panels
from gradlab.runs.reader import Run

WIDTH, HEADS, LAYERS, STEPS = 8, 2, 2, 3


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            setattr(self, name, nn.Linear(WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        scores = self.q_proj(x) @ self.k_proj(x).mT
        return self.out_proj(scores.softmax(-1) @ self.v_proj(x))


class Layer(nn.Module):
    """A NormFormer layer, its parts named as fairseq names them."""

    def __init__(self) -> None:
        super().__init__()
        self.self_attn = SelfAttention()
        self.self_attn_layer_norm = nn.LayerNorm(WIDTH)
        self.c_attn = nn.Parameter(torch.ones(HEADS))
        self.attn_ln = nn.LayerNorm(WIDTH)
        self.final_layer_norm = nn.LayerNorm(WIDTH)
        self.fc1 = nn.Linear(WIDTH, 3 * WIDTH)
        self.ffn_layernorm = nn.LayerNorm(3 * WIDTH)
        self.fc2 = nn.Linear(3 * WIDTH, WIDTH)
        self.w_resid = nn.Parameter(torch.full((WIDTH,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        h = self.self_attn(self.self_attn_layer_norm(x))
        h = h * self.c_attn.repeat_interleave(WIDTH // HEADS)
        x = x + self.attn_ln(h)
        h = self.ffn_layernorm(F.gelu(self.fc1(self.final_layer_norm(x))))
        return self.w_resid * x + self.fc2(h)


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(11, WIDTH)
        self.layers = nn.ModuleList([Layer() for _ in range(LAYERS)])
        self.layer_norm = nn.LayerNorm(WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed_tokens(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.layer_norm(x) @ self.embed_tokens.weight.T


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.decoder = Decoder()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    torch.manual_seed(0)
    model = Model()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    out: Path = tmp_path_factory.mktemp("fairseq") / "mine"
    with gradlab.attach(model, optimizer, out=out):
        for _ in range(STEPS):
            tokens = torch.randint(11, (2, 5))
            F.cross_entropy(model.decoder(tokens).flatten(0, 1), tokens.flatten()).backward()
            optimizer.step()
            optimizer.zero_grad()
    return gradlab.load(out)


def test_gradients_are_found_under_the_same_ops(run: Run) -> None:
    layers = gradients_by_layer(run.table("grad_norms"), first=0, last=STEPS - 1)
    ops = {"q", "k", "v", "out", "fc1", "fc2", "head_scale", "lambda_resid"}
    ops |= {"attn_norm", "attn_out_norm", "ffn_norm", "ffn_mid_norm"}
    assert set(layers["op"]) == ops
    assert (layers.groupby("op")["layer"].apply(list).map(tuple) == (0, 1)).all()
    outside = run.table("grad_norms").query("layer.isna()")
    assert set(outside["op"]) == {"embed", "final_norm"}


def test_figure_4_has_all_three_scales(run: Run) -> None:
    distributions = scale_distributions([run])
    assert set(distributions["op"]) == set(FIGURE_OPS)
    assert len(distributions) == 3 * LAYERS
    drawn = [ax for ax in scale_panels(scale_entries([run])).axes if ax.axison]
    assert [ax.get_title(loc="left") for ax in drawn] == [
        "FFN LN γ",
        "Post-attention LN γ",
        "Head scale γ",
    ]


def test_figure_6_has_one_line_of_the_ffn_residual(run: Run) -> None:
    lambdas = lambda_by_depth([run])
    assert lambdas["residual"].tolist() == ["ffn_residual"] * LAYERS
    assert lambdas["depth"].tolist() == [0, 0.5]
    last = run.table("scales").query("op == 'lambda_resid'")
    last = last[last["step"] == last["step"].max()]
    assert lambdas["mean"].tolist() == last.groupby("layer")["value"].mean().tolist()
    assert "the FFN residual" in lambda_resid_by_depth(lambdas).get_ylabel()
