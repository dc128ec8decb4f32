"""Updates that break weights, are lost, or never come."""

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from benchmarks.diagnosis.case import case, named, normal, squares, train
from benchmarks.diagnosis.tool import Tool


@case(
    "Adam in FP16: ε rounds to 0, and weights without a gradient get 0/0",
    "https://github.com/google-deepmind/optax/issues/1754",
    names=("embed.weight",),
    phrases=(r"\bε\b.*rounds? to 0", r"\bepsilon\b"),
)
def adam_epsilon(tool: Tool, healthy: bool) -> nn.Module:
    torch.manual_seed(0)
    model = named(embed=nn.Embedding(6, 4), mid=nn.Linear(4, 4), head=nn.Linear(4, 1)).half()
    optimizer = Adam(model.parameters(), lr=1e-3, eps=1e-4 if healthy else 1e-8)
    batches = [torch.tensor([1, 2]), torch.tensor([3, 4]), torch.tensor([1, 3])]
    return train(tool, model, optimizer, batches, squares)


@case(
    "an optimizer divides by its update's norm, which is 0 where the gradient is",
    "https://github.com/microsoft/dion/pull/24",
    names=("mid.weight",),
)
def update_by_zero(tool: Tool, healthy: bool) -> nn.Module:
    class Normalized(Optimizer):
        def __init__(self, parameters) -> None:
            super().__init__(parameters, {"lr": 1e-2})

        @torch.no_grad()
        def step(self, closure=None) -> None:
            for parameter in self.param_groups[0]["params"]:
                norm = parameter.grad.norm()
                parameter -= 1e-2 * parameter.grad / norm  # culprit

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.mid = nn.Linear(4, 4), nn.Linear(4, 4, bias=False)
            self.out, self.head = nn.Linear(4, 4, bias=False), nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x)
            return self.head(x + self.out(self.mid(x)))

    torch.manual_seed(0)
    model = Block()
    if not healthy:
        nn.init.zeros_(model.out.weight)  # so that mid's gradient is 0
    return train(tool, model, Normalized(model.parameters()), normal(3, 4), squares)


@case(
    "a learning rate so high that the training diverges",
    "https://github.com/facebookresearch/maskrcnn-benchmark/issues/295",
    phrases=(r"\bdiverg", r"\bexplod", r"\blearning rate\b", r"\bgrew\b.*\b(weight|update)"),
)
def learning_rate(tool: Tool, healthy: bool) -> nn.Module:
    torch.manual_seed(0)
    model = named(fc1=nn.Linear(4, 8), act=nn.ReLU(), fc2=nn.Linear(8, 8), head=nn.Linear(8, 1))
    optimizer = SGD(model.parameters(), lr=1e-2 if healthy else 20.0)  # culprit
    return train(tool, model, optimizer, normal(3, 4, steps=12), squares)


@case(
    "many layers without a normalisation: gradients explode towards the first",
    "https://github.com/cvignac/SMP/issues/3",
    phrases=(r"\bexplod", r"first layers?' gradient is"),
)
def too_deep(tool: Tool, healthy: bool) -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(*(named(fc1=nn.Linear(8, 8, bias=False)) for _ in range(24)))
    model = named(layers=layers, head=nn.Linear(8, 1))
    for i, layer in enumerate(layers):
        nn.init.orthogonal_(layer.fc1.weight, gain=1.0 if healthy else 12.0 if i < 12 else 8.0)
    return train(tool, model, SGD(model.parameters(), lr=1e-30), normal(3, 8), squares)


@case(
    "bfloat16 weights of 1: updates are lost to rounding",
    "https://github.com/vllm-project/speculators/pull/765",
    names=("norm.weight", "norm"),
)
def lost_updates(tool: Tool, healthy: bool) -> nn.Module:
    torch.manual_seed(0)
    model = named(embed=nn.Linear(4, 8), norm=nn.LayerNorm(8), mid=nn.Linear(8, 8))
    model.append(nn.Linear(8, 1))
    model = model.float() if healthy else model.bfloat16()
    batches = [x.to(model.norm.weight.dtype) for x in normal(3, 4, steps=8)]
    return train(tool, model, Adam(model.parameters(), lr=1e-4), batches, squares)


@case(
    "the optimizer was made before the head was replaced",
    "https://github.com/pytorch/pytorch/issues/14467",
    names=("head.weight", "head"),
)
def replaced_head(tool: Tool, healthy: bool) -> nn.Module:
    torch.manual_seed(0)
    model = named(embed=nn.Linear(4, 8), mid=nn.Linear(8, 8), head=nn.Linear(8, 1))
    optimizer = SGD(model.parameters(), lr=1e-2)
    if not healthy:
        model.head = nn.Linear(8, 1)
    return train(tool, model, optimizer, normal(3, 4), squares)


@case(
    "the model was made twice, the optimizer has the first one's parameters",
    "https://github.com/spro/practical-pytorch/issues/9",
    phrases=(r"none of .*optimi[sz]er", r"optimi[sz]er.* (none|not one) of", r"not the optimi"),
)
def made_twice(tool: Tool, healthy: bool) -> nn.Module:
    def made() -> nn.Module:
        torch.manual_seed(0)
        return named(embed=nn.Linear(4, 8), mid=nn.Linear(8, 8), head=nn.Linear(8, 1))

    model = made()
    optimizer = SGD(model.parameters(), lr=1e-2)
    if not healthy:
        model = made()
    return train(tool, model, optimizer, normal(3, 4), squares)


@case(
    "zero_grad is never called",
    "https://github.com/pytorch/pytorch/issues/47175",
    phrases=(r"zero_grad", r"(not|never) (cleared|zeroed)", r"carried over", r"earlier steps?'"),
)
def never_zeroed(tool: Tool, healthy: bool) -> nn.Module:
    torch.manual_seed(0)
    model = named(embed=nn.Linear(4, 8), act=nn.Tanh(), head=nn.Linear(8, 1))
    optimizer = SGD(model.parameters(), lr=1e-2)
    return train(tool, model, optimizer, normal(3, 4, steps=8), squares, zeroed=healthy)


@case(
    ".grad is clipped after every micro-batch",
    "https://github.com/huggingface/accelerate/issues/641",
    phrases=(r"\bbetween\b.*(micro-?batch|pass)", r"before the (next|last)\b.*pass"),
)
def clipped_between(tool: Tool, healthy: bool) -> nn.Module:
    torch.manual_seed(0)
    model = named(embed=nn.Linear(4, 8), act=nn.Tanh(), head=nn.Linear(8, 1))
    optimizer = SGD(model.parameters(), lr=1e-2)
    with tool.watching(model, optimizer):
        for batch in normal(4, 3, 4):
            optimizer.zero_grad()
            for micro_batch in batch:
                loss = squares(model, micro_batch)
                tool.loss(loss)
                (loss / 4).backward()
                if not healthy:
                    nn.utils.clip_grad_norm_(model.parameters(), 1e-3)  # culprit
            tool.gradients()
            optimizer.step()
    return model


@case(
    "micro-batches are summed, not averaged",
    "https://github.com/karpathy/nanoGPT/issues/206",
    phrases=(r"micro-?batches.*(sum|not (averaged|divided))", r"(sum|not divided).*micro-?batches"),
)
def not_averaged(tool: Tool, healthy: bool) -> nn.Module:
    torch.manual_seed(0)
    model = named(embed=nn.Linear(4, 8), act=nn.Tanh(), head=nn.Linear(8, 1))
    optimizer = SGD(model.parameters(), lr=1e-2)
    with tool.watching(model, optimizer):
        for batch in normal(4, 3, 4):
            optimizer.zero_grad()
            for micro_batch in batch:
                loss = squares(model, micro_batch)
                tool.loss(loss)
                (loss / (4 if healthy else 1)).backward()  # culprit
            tool.gradients()
            optimizer.step()
    return model
