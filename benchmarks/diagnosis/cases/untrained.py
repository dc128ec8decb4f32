"""Parameters that get no gradient, or only zeros, while the loss may well fall."""

import torch
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.checkpoint import checkpoint

from benchmarks.diagnosis.case import case, named, normal, squares, train
from benchmarks.diagnosis.tool import Tool


@case(
    "a frozen embedding under a reentrant checkpoint: the layer in it gets no gradient",
    "https://github.com/huggingface/transformers/issues/26221",
    names=("body", "body.weight"),
)
def reentrant_checkpoint(tool: Tool, healthy: bool) -> nn.Module:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.body = nn.Linear(4, 8), nn.Linear(8, 8)
            self.mid, self.head = nn.Linear(8, 8), nn.Linear(8, 1)
            self.embed.requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x)
            x = checkpoint(self.body, x, use_reentrant=not healthy)  # culprit
            return self.head(self.mid(x.tanh()))

    torch.manual_seed(0)
    model = Model()
    trainable = [p for p in model.parameters() if p.requires_grad]
    return train(tool, model, SGD(trainable, lr=1e-2), normal(3, 4), squares)


class TwoHeads(nn.Module):
    """Two heads, of which `forward` leaves one out unless told otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.mid = nn.Linear(4, 8), nn.Linear(8, 8)
        self.head, self.extra = nn.Linear(8, 1), nn.Linear(8, 1)
        self.uses_both = False

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid(self.encoder(x).tanh())
        return self.head(x) + self.extra(x) if self.uses_both else self.head(x)


@case(
    "a layer that the forward pass does not use",
    "https://github.com/pytorch/pytorch/issues/57776",
    names=("extra", "extra.weight"),
)
def unused(tool: Tool, healthy: bool) -> nn.Module:
    torch.manual_seed(0)
    model = TwoHeads()
    model.uses_both = healthy
    return train(tool, model, SGD(model.parameters(), lr=1e-2), normal(3, 4), squares)


class Encoded(nn.Module):
    """An encoder and the rest, with something between."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.mid, self.head = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 1)

    def rest(self, x: Tensor) -> Tensor:
        return self.head(self.mid(x).tanh())


@case(
    "features are detached before the rest of the model",
    "https://github.com/speechbrain/speechbrain/issues/1396",
    names=("encoder", "encoder.weight"),
)
def detached(tool: Tool, healthy: bool) -> nn.Module:
    class Model(Encoded):
        def forward(self, x: Tensor) -> Tensor:
            features = self.encoder(x)
            return self.rest(features if healthy else features.detach())  # culprit

    torch.manual_seed(0)
    model = Model()
    return train(tool, model, SGD(model.parameters(), lr=1e-2), normal(3, 4), squares)


@case(
    "the encoder runs under torch.no_grad",
    "https://github.com/rll-research/cic/issues/5",
    names=("encoder", "encoder.weight"),
)
def no_grad(tool: Tool, healthy: bool) -> nn.Module:
    class Model(Encoded):
        def forward(self, x: Tensor) -> Tensor:
            with torch.set_grad_enabled(healthy):
                features = self.encoder(x)  # culprit
            return self.rest(features)

    torch.manual_seed(0)
    model = Model()
    return train(tool, model, SGD(model.parameters(), lr=1e-2), normal(3, 4), squares)


@case(
    "both matrices of a LoRA adapter start at 0",
    "https://github.com/Lightning-AI/litgpt/issues/1229",
    names=("proj", "proj.lora_a", "proj.lora_b", "proj.lora_a.weight", "proj.lora_b.weight"),
)
def lora_zeros(tool: Tool, healthy: bool) -> nn.Module:
    class Adapted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base = nn.Linear(8, 8).requires_grad_(False)
            self.lora_a, self.lora_b = nn.Linear(8, 2, bias=False), nn.Linear(2, 8, bias=False)
            nn.init.zeros_(self.lora_b.weight)
            if not healthy:
                nn.init.zeros_(self.lora_a.weight)  # culprit

        def forward(self, x: Tensor) -> Tensor:
            return self.base(x) + self.lora_b(self.lora_a(x))

    torch.manual_seed(0)
    model = named(embed=nn.Linear(4, 8), proj=Adapted(), mid=nn.Linear(8, 8), head=nn.Linear(8, 1))
    return train(tool, model, SGD(model.parameters(), lr=1e-2), normal(3, 4), squares)


@case(
    "a ReLU that no input switches on",
    "https://github.com/jvargasmu/population_estimation/issues/68",
    names=("relu", "fc", "fc.weight"),
)
def dead_relu(tool: Tool, healthy: bool) -> nn.Module:
    torch.manual_seed(0)
    model = named(embed=nn.Linear(4, 8), act=nn.Tanh(), fc=nn.Linear(8, 8), relu=nn.ReLU())
    model.append(nn.Linear(8, 1))
    nn.init.constant_(model.fc.bias, 0.0 if healthy else -9.0)
    return train(tool, model, SGD(model.parameters(), lr=1e-2), normal(3, 4), squares)


@case(
    "gradients vanish through many sigmoids",
    "https://github.com/microsoft/CNTK/issues/476",
    phrases=(r"\bvanish", r"first layers?' gradient is"),
)
def vanishing(tool: Tool, healthy: bool) -> nn.Module:
    def layer() -> nn.Module:
        return named(fc1=nn.Linear(8, 8), act=nn.Identity() if healthy else nn.Sigmoid())

    torch.manual_seed(0)
    layers = nn.Sequential(*(layer() for _ in range(12)))
    for each in layers:
        nn.init.orthogonal_(each.fc1.weight)
    model = named(layers=layers, head=nn.Linear(8, 1))
    return train(tool, model, SGD(model.parameters(), lr=1e-2), normal(3, 8), squares)
