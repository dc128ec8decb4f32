"""What leaves FP16's range in the forward pass, at either end."""

import torch
from torch import Tensor, nn
from torch.optim import SGD

from benchmarks.diagnosis.case import case, named, normal, squares, train
from benchmarks.diagnosis.tool import Tool


def halves(*shape: int) -> list[Tensor]:
    return [x.half() for x in normal(*shape)]


@case(
    "T5's feed-forward output projection overflows",
    "https://github.com/huggingface/transformers/issues/5651",
    names=("block.1.wo",),
)
def t5_output(tool: Tool, healthy: bool) -> nn.Module:
    class FeedForward(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wi, self.wo = nn.Linear(8, 32), nn.Linear(32, 8)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.wo(self.wi(x).relu())  # culprit

    torch.manual_seed(0)
    model = named(block=nn.Sequential(FeedForward(), FeedForward()), head=nn.Linear(8, 1))
    if not healthy:
        nn.init.constant_(model.block[1].wi.weight, 300.0)
        nn.init.constant_(model.block[1].wo.weight, 300.0)
    optimizer = SGD(model.parameters(), lr=1e-3)
    return train(tool, model, optimizer, normal(4, 8), squares, autocast=True)


@case(
    "both terms of a residual sum fit FP16, the sum does not",
    "https://github.com/huggingface/transformers/issues/12225",
    names=("layers.1",),
)
def residual_sum(tool: Tool, healthy: bool) -> nn.Module:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.fc2(self.fc1(x).relu())
            return x + hidden  # culprit

    torch.manual_seed(0)
    model = named(layers=nn.Sequential(Layer(), Layer()), head=nn.Linear(8, 1)).half()
    if not healthy:
        with torch.no_grad():
            model.layers[0].fc2.bias.fill_(4e4)
            model.layers[1].fc1.weight.zero_()
            model.layers[1].fc2.bias.fill_(4e4)
            model.head.weight.zero_()
    optimizer = SGD(model.parameters(), lr=1e-3)
    return train(tool, model, optimizer, halves(4, 8), squares)


@case(
    "a gate's product overflows in a model that was trained in bfloat16",
    "https://github.com/modelscope/ms-swift/issues/1099",
    names=("layers.0.mlp",),
)
def gated_product(tool: Tool, healthy: bool) -> nn.Module:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.up, self.down = nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(16, 8)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.gate(x).sigmoid() * self.gate(x) * self.up(x)  # culprit
            return self.down(hidden)

    torch.manual_seed(0)
    layers = nn.Sequential(named(norm=nn.LayerNorm(8), mlp=Gated()))
    model = named(embed=nn.Linear(8, 8), layers=layers, head=nn.Linear(8, 1))
    size = 1.0 if healthy else 200.0
    nn.init.normal_(layers[0].mlp.gate.weight, std=size)
    nn.init.normal_(layers[0].mlp.up.weight, std=size)
    optimizer = SGD(model.parameters(), lr=1e-3)
    return train(tool, model, optimizer, normal(4, 8), squares, autocast=True)


@case(
    "a decoder's convolution overflows, as in SDXL's VAE",
    "https://github.com/huggingface/diffusers/issues/7188",
    names=("decoder.up.conv2",),
)
def decoder_convolution(tool: Tool, healthy: bool) -> nn.Module:
    torch.manual_seed(0)
    up = named(conv1=nn.Conv2d(4, 8, 3, padding=1), act=nn.SiLU(), conv2=nn.Conv2d(8, 4, 3))
    model = named(encoder=nn.Conv2d(3, 4, 1), decoder=named(up=up, out=nn.Conv2d(4, 3, 1))).half()
    if not healthy:
        with torch.no_grad():
            up.conv1.weight.mul_(300)
            up.conv2.weight.mul_(5000)
    optimizer = SGD(model.parameters(), lr=1e-3)
    return train(tool, model, optimizer, halves(2, 3, 6, 6), squares)


@case(
    "RMSNorm squares in FP16: over 255 the output is 0, and nothing is ever infinite outside",
    "https://github.com/pytorch/pytorch/issues/133085",
    names=("norm",),
)
def squares_overflow(tool: Tool, healthy: bool) -> nn.Module:
    class Norm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(8))

        def forward(self, x: Tensor) -> Tensor:
            mean_square = (x * x).mean(-1, keepdim=True)  # culprit
            return self.scale * (x * (mean_square + 1e-5).rsqrt())

    torch.manual_seed(0)
    model = named(proj=nn.Linear(8, 8), act=nn.Tanh(), up=nn.Linear(8, 8), norm=Norm()).half()
    model.append(nn.Linear(8, 1).half())
    nn.init.constant_(model.up.bias, 2.0 if healthy else 500.0)
    optimizer = SGD(model.parameters(), lr=1e-3)
    return train(tool, model, optimizer, halves(4, 8), squares)


@case(
    "F.normalize in FP16: its ε of 1e-12 rounds to 0, a zero vector gives 0/0",
    "https://github.com/pytorch/pytorch/issues/32137",
    names=("unit",),
)
def normalize_zeros(tool: Tool, healthy: bool) -> nn.Module:
    class Unit(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.normalize(x, dim=-1)  # culprit

    torch.manual_seed(0)
    model = named(embed=nn.Embedding(6, 8, padding_idx=0), unit=Unit(), head=nn.Linear(8, 1)).half()
    ids = torch.tensor([[1, 2, 3 if healthy else 0], [4, 5, 1]])
    optimizer = SGD(model.parameters(), lr=1e-3)
    return train(tool, model, optimizer, [ids] * 4, squares)


@case(
    "a LayerNorm whose ε of 1e-12 is lost in FP16, on padding that is constant",
    "https://github.com/deepspeedai/DeepSpeed/issues/581",
    names=("encoder.norm",),
)
def layer_norm_epsilon(tool: Tool, healthy: bool) -> nn.Module:
    class Norm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.ones(8)), nn.Parameter(torch.zeros(8))

        def forward(self, x: Tensor) -> Tensor:
            variance = x.var(-1, keepdim=True, unbiased=False) + 1e-12
            return (
                x - x.mean(-1, keepdim=True)
            ) / variance.sqrt() * self.weight + self.bias  # culprit

    torch.manual_seed(0)
    encoder = named(fc=nn.Linear(8, 8, bias=False), norm=Norm())
    model = named(encoder=encoder, mid=nn.Linear(8, 8), head=nn.Linear(8, 1)).half()
    batches = halves(4, 8)
    if not healthy:
        batches[1][2:] = 0  # padding
    optimizer = SGD(model.parameters(), lr=1e-3)
    return train(tool, model, optimizer, batches, squares)


@case(
    "a mean that is a sum first: 600 tokens of 200 overflow",
    "https://github.com/pytorch/pytorch/issues/91597",
    names=("pool",),
)
def mean_as_sum(tool: Tool, healthy: bool) -> nn.Module:
    class Pool(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sum(1) / x.shape[1]  # culprit

    torch.manual_seed(0)
    model = named(embed=nn.Linear(4, 4), act=nn.ReLU(), pool=Pool(), head=nn.Linear(4, 1)).half()
    nn.init.constant_(model.embed.bias, 200.0)
    nn.init.constant_(model.head.weight, 1e-3)
    batches = [x.half() for x in normal(2, 60 if healthy else 600, 4)]
    optimizer = SGD(model.parameters(), lr=1e-6)
    return train(tool, model, optimizer, batches, squares)


@case(
    "a checkpoint's weight does not fit FP16",
    "https://github.com/facebookresearch/fairseq/issues/1739",
    names=("layers.1.fc.weight",),
)
def weight_at_load(tool: Tool, healthy: bool) -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(*(named(fc=nn.Linear(8, 8), act=nn.Tanh()) for _ in range(3)))
    model = named(embed=nn.Linear(8, 8), layers=layers, head=nn.Linear(8, 1))
    checkpoint = model.state_dict()
    if not healthy:
        checkpoint["layers.1.fc.weight"][3, 5] = 1e5
    model.half().load_state_dict(checkpoint)
    optimizer = SGD(model.parameters(), lr=1e-3)
    return train(tool, model, optimizer, halves(4, 8), squares)


@case(
    "the reparametrisation's exp(logvar) overflows",
    "https://github.com/vanderschaarlab/synthcity/issues/331",
    names=("sample",),
)
def exponent(tool: Tool, healthy: bool) -> nn.Module:
    class Sample(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            mean, log_variance = x.chunk(2, -1)
            return mean + log_variance.exp().sqrt() * torch.linspace(-1, 1, 4)  # culprit

    torch.manual_seed(0)
    model = named(encoder=nn.Linear(8, 8), sample=Sample(), decoder=nn.Linear(4, 8))
    nn.init.constant_(model.encoder.bias, 0.0 if healthy else 100.0)
    optimizer = SGD(model.parameters(), lr=1e-3)
    return train(tool, model, optimizer, normal(4, 8), squares)


@case(
    "DoRA divides by the norm of a weight row that is 0",
    "https://github.com/huggingface/peft/issues/2049",
    names=("layers.1.o_proj",),
)
def dora_norm(tool: Tool, healthy: bool) -> nn.Module:
    class Dora(nn.Linear):
        def __init__(self) -> None:
            super().__init__(8, 8, bias=False)
            self.magnitude = nn.Parameter(torch.ones(8))

        def forward(self, x: Tensor) -> Tensor:
            scale = self.magnitude / self.weight.norm(dim=1)  # culprit
            return scale * nn.functional.linear(x, self.weight)  # culprit

    torch.manual_seed(0)
    layers = nn.Sequential(named(o_proj=Dora()), named(o_proj=Dora()))
    model = named(embed=nn.Linear(8, 8), layers=layers, head=nn.Linear(8, 1))
    if not healthy:
        nn.init.zeros_(layers[1].o_proj.weight[2])
    optimizer = SGD(model.parameters(), lr=1e-3)
    return train(tool, model, optimizer, normal(4, 8), squares)
