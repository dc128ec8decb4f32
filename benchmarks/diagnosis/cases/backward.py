"""Forward passes that are finite throughout, and whose gradient is not: 0 times ∞ is NaN."""

import torch
from torch import Tensor, nn
from torch.autograd import grad
from torch.optim import SGD

from benchmarks.diagnosis.case import case, named, normal, squares, train
from benchmarks.diagnosis.tool import Tool


def with_middle(tool: Tool, middle: nn.Module, *, start: float, width: int = 4) -> nn.Module:
    """Train a model around a module, which the first sample reaches as `start` exactly."""
    torch.manual_seed(0)
    model = named(
        embed=nn.Linear(4, 4), proj=nn.Linear(4, 4), middle=middle, head=nn.Linear(width, 1)
    )
    nn.init.zeros_(model.embed.bias)
    nn.init.constant_(model.proj.bias, start)
    batches = normal(3, 4)
    for batch in batches:
        batch[0] = 0
    return train(tool, model, SGD(model.parameters(), lr=1e-2), batches, squares)


@case(
    "torch.where hides the root of a negative number, its gradient is NaN all the same",
    "https://github.com/pytorch/pytorch/issues/187297",
    names=("middle",),
)
def where_root(tool: Tool, healthy: bool) -> nn.Module:
    class Middle(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.where(x > 0, x.sqrt(), x)  # culprit

    return with_middle(tool, Middle(), start=9.0 if healthy else 0.0)


@case(
    "torch.where hides the logarithm of 0",
    "https://github.com/pytorch/pytorch/issues/108618",
    names=("middle",),
)
def where_logarithm(tool: Tool, healthy: bool) -> nn.Module:
    class Middle(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.where(x > 0.5, x.log2(), 2 * x)  # culprit

    return with_middle(tool, Middle(), start=9.0 if healthy else 0.0)


@case(
    "torch.where hides an exponential that overflows",
    "https://github.com/pytorch/pytorch/issues/68425",
    names=("middle",),
)
def where_exponential(tool: Tool, healthy: bool) -> nn.Module:
    class Middle(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.where(x <= 0, x.exp(), 1 + x)  # culprit

    return with_middle(tool, Middle(), start=1.0 if healthy else 100.0)


@case(
    "torch.where hides a division by 0",
    "https://github.com/pytorch/pytorch/issues/16317",
    names=("middle",),
)
def where_division(tool: Tool, healthy: bool) -> nn.Module:
    class Middle(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            counts = torch.tensor([1.0 if healthy else 0.0, 1.0, 2.0, 3.0])
            return torch.where(counts == 0, 0.0, x / counts)  # culprit

    return with_middle(tool, Middle(), start=0.0)


@case(
    "a distance, the root of a sum of squares, at 0",
    "https://github.com/akanazawa/cmr/issues/11",
    names=("middle",),
)
def distance(tool: Tool, healthy: bool) -> nn.Module:
    class Middle(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.square().sum(-1, keepdim=True).sqrt()  # culprit

    return with_middle(tool, Middle(), start=0.5 if healthy else 0.0, width=1)


@case(
    "a standard deviation, the root of a variance, of values that are all equal",
    "https://github.com/pytorch/pytorch/issues/4320",
    names=("middle",),
)
def deviation(tool: Tool, healthy: bool) -> nn.Module:
    class Middle(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x / (x.var(-1, keepdim=True).sqrt() + 1.0)  # culprit

    torch.manual_seed(0)
    model = named(embed=nn.Linear(4, 4), middle=Middle(), head=nn.Linear(4, 1))
    nn.init.zeros_(model.embed.bias)
    batches = normal(3, 4)
    batches[0][0] = 1.0 if healthy else 0.0  # silence
    return train(tool, model, SGD(model.parameters(), lr=1e-2), batches, squares)


@case(
    "acos at 1, which clamping to [−1, 1] does not prevent",
    "https://github.com/pytorch/pytorch/issues/8069",
    names=("middle",),
)
def arc_cosine(tool: Tool, healthy: bool) -> nn.Module:
    class Middle(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            # From torch 2.14 on, clamp(-1, 1) passes no gradient at its bounds, and hides the ∞.
            bound = torch.ones(())
            return x.minimum(bound).maximum(-bound).acos()  # culprit

    return with_middle(tool, Middle(), start=0.0 if healthy else 1.0)


@case(
    "a power of 0.3 at 0",
    "https://github.com/asteroid-team/asteroid/pull/121",
    names=("middle",),
)
def power(tool: Tool, healthy: bool) -> nn.Module:
    class Middle(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.abs().pow(0.3)  # culprit

    return with_middle(tool, Middle(), start=0.5 if healthy else 0.0)


@case(
    "logsumexp over paths that are all impossible",
    "https://github.com/pytorch/pytorch/issues/31829",
    names=("middle",),
)
def impossible_paths(tool: Tool, healthy: bool) -> nn.Module:
    class Middle(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            weights = torch.tensor([[1.0] * 4, [1.0 if healthy else 0.0] * 4])
            paths = x.unsqueeze(1) + weights.log()  # culprit
            return paths.logsumexp(-1).exp()  # culprit

    return with_middle(tool, Middle(), start=0.5, width=2)


@case(
    "the angle of a rotation, a root, at no rotation",
    "https://github.com/kornia/kornia/issues/2924",
    names=("middle",),
)
def rotation(tool: Tool, healthy: bool) -> nn.Module:
    class Middle(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            theta2 = x.square().sum(-1, keepdim=True)
            theta = torch.sqrt(theta2)  # culprit
            axis = x / (theta + 1e-6)
            return torch.where(theta2 > 1e-6, axis * theta.sin(), x)

    return with_middle(tool, Middle(), start=0.5 if healthy else 0.0)


@case(
    "weight normalisation of a weight that is 0",
    "https://github.com/pytorch/pytorch/issues/19126",
    names=("layers.1", "layers.1.parametrizations.weight.0"),
)
def weight_normalization(tool: Tool, healthy: bool) -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    model = named(layers=layers, head=nn.Linear(4, 1))
    if not healthy:
        nn.init.zeros_(layers[1].weight)
    nn.utils.parametrizations.weight_norm(layers[1])
    optimizer = SGD(model.parameters(), lr=1e-2)
    return train(tool, model, optimizer, normal(3, 4), squares)


@case(
    "WGAN-GP: the penalty's root, where the critic's gradient is 0",
    "https://github.com/pytorch/pytorch/issues/2534",
    phrases=(r"from the loss", r"outside the model"),
)
def gradient_penalty(tool: Tool, healthy: bool) -> nn.Module:
    def loss_of(model: nn.Module, batch: Tensor) -> Tensor:
        batch = batch.requires_grad_()
        score = model(batch).mean()
        (slope,) = grad(score, batch, create_graph=True)
        norm = slope.square().sum(-1).sqrt()  # culprit
        return score + (norm - 1).square().mean()

    torch.manual_seed(0)
    model = named(embed=nn.Linear(4, 4), act=nn.ReLU(), head=nn.Linear(4, 1))
    nn.init.constant_(model.embed.bias, 5.0 if healthy else -5.0)  # the critic is flat
    nn.init.constant_(model.embed.weight, 0.1)
    return train(tool, model, SGD(model.parameters(), lr=1e-2), normal(3, 4), loss_of)
