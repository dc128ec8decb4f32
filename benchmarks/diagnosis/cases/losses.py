"""Losses that are not finite, or whose gradient is not, though the model's output is."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD

from benchmarks.diagnosis.case import case, named, normal, train
from benchmarks.diagnosis.tool import Tool

FROM_LOSS = (
    r"from the loss",
    r"in the loss",
    r"outside the model",
    r"after the model",
    r"loss itself",
)


def small_model(outputs: int) -> nn.Sequential:
    torch.manual_seed(0)
    return named(embed=nn.Linear(4, 8), act=nn.Tanh(), head=nn.Linear(8, outputs))


def trained(tool: Tool, model: nn.Module, loss_of, batches: list[Tensor]) -> nn.Module:
    return train(tool, model, SGD(model.parameters(), lr=1e-2), batches, loss_of)


@case(
    "cross entropy where every label is ignored",
    "https://github.com/nvidia-cosmos/cosmos-rl/pull/155",
    phrases=FROM_LOSS,
)
def all_ignored(tool: Tool, healthy: bool) -> nn.Module:
    def loss_of(model: nn.Module, step: Tensor) -> Tensor:
        labels = torch.tensor([0, 1, 2])
        if step == 2:
            labels[0 if not healthy else 1 :] = -100
        return F.cross_entropy(model(torch.ones(3, 4) * (step + 1)), labels)  # culprit

    return trained(tool, small_model(5), loss_of, list(torch.arange(4)))


@case(
    "CTC where the input is shorter than its target",
    "https://github.com/wenet-e2e/wenet/pull/2299",
    phrases=FROM_LOSS,
)
def ctc_too_short(tool: Tool, healthy: bool) -> nn.Module:
    def loss_of(model: nn.Module, batch: Tensor) -> Tensor:
        probabilities = model(batch).log_softmax(-1)  # (T, B, classes)
        targets = torch.tensor([[1, 2, 3], [2, 1, 4]])
        lengths = torch.tensor([6, 6 if healthy else 2])
        return F.ctc_loss(probabilities, targets, lengths, torch.tensor([3, 3]))  # culprit

    return trained(tool, small_model(5), loss_of, normal(6, 2, 4))


@case(
    "label smoothing over logits that were masked with −∞",
    "https://github.com/facebookresearch/pytext/pull/1698",
    phrases=FROM_LOSS,
)
def smoothing_of_masked(tool: Tool, healthy: bool) -> nn.Module:
    def loss_of(model: nn.Module, batch: Tensor) -> Tensor:
        logits = model(batch)
        allowed = torch.tensor([True, True, True, True, healthy])
        logits = logits.masked_fill(~allowed, float("-inf"))
        return F.cross_entropy(logits, torch.tensor([0, 1, 2]), label_smoothing=0.1)  # culprit

    return trained(tool, small_model(5), loss_of, normal(3, 4))


@case(
    "the mean over a task of which the batch has no example",
    "https://github.com/JayYip/m3tl/pull/35",
    phrases=FROM_LOSS,
)
def empty_task(tool: Tool, healthy: bool) -> nn.Module:
    def loss_of(model: nn.Module, batch: Tensor) -> Tensor:
        task = torch.tensor([0, 0, 1]) if healthy or batch[0, 0] > 0 else torch.tensor([0, 0, 0])
        errors = model(batch).square()
        return errors[task == 0].mean() + errors[task == 1].mean()  # culprit

    return trained(tool, small_model(1), loss_of, normal(3, 4))


@case(
    "a cross entropy by hand: the logarithm of a probability that is 0",
    "https://github.com/RasmussenLab/vamb/issues/12",
    phrases=FROM_LOSS,
)
def logarithm_of_zero(tool: Tool, healthy: bool) -> nn.Module:
    def loss_of(model: nn.Module, batch: Tensor) -> Tensor:
        probabilities = (model(batch) * (1 if healthy else 1000)).softmax(-1)
        depth = torch.tensor([0.5, 0.3, 0.2, 0.0])
        return -(depth * probabilities.log()).sum(-1).mean()  # culprit

    return trained(tool, small_model(4), loss_of, normal(3, 4))


@case(
    "a focal loss whose (1 − y) · log(1 − p) is 0 · −∞",
    "https://github.com/kornia/kornia/issues/2115",
    phrases=FROM_LOSS,
)
def focal(tool: Tool, healthy: bool) -> nn.Module:
    def loss_of(model: nn.Module, batch: Tensor) -> Tensor:
        logits = model(batch) + (0 if healthy else 200)
        p, target = logits.sigmoid(), torch.ones(3, 1)
        negative = (1 - target) * (-logits).sigmoid().log()  # culprit
        return -(target * (1 - p).square() * F.logsigmoid(logits) + negative).mean()

    return trained(tool, small_model(1), loss_of, normal(3, 4))


@case(
    "missing targets are masked after the square",
    "https://github.com/pytorch/pytorch/issues/89543",
    phrases=FROM_LOSS,
)
def masked_too_late(tool: Tool, healthy: bool) -> nn.Module:
    def loss_of(model: nn.Module, batch: Tensor) -> Tensor:
        targets = torch.tensor([[1.0], [1.0 if healthy else float("nan")], [0.0]])
        errors = (model(batch) - targets).square()  # culprit
        return torch.where(targets.isnan(), 0.0, errors).mean()

    return trained(tool, small_model(1), loss_of, normal(3, 4))


@case(
    "regression targets of 755,000 in FP16",
    "https://github.com/rstudio-conf-2020/dl-keras-tf/issues/9",
    phrases=(*FROM_LOSS, r"\btargets?\b", r"\blabels?\b"),
)
def large_targets(tool: Tool, healthy: bool) -> nn.Module:
    def loss_of(model: nn.Module, batch: Tensor) -> Tensor:
        prices = torch.tensor([[2e5], [7.55e5], [1.3e5]]) / (1e6 if healthy else 1)
        return F.mse_loss(model(batch), prices.half())  # culprit

    model = small_model(1).half()
    return trained(tool, model, loss_of, [x.half() for x in normal(3, 4)])


@case(
    "a normalisation's guard of 1e-8 is 0 in FP16",
    "https://github.com/lightonai/pylate/issues/239",
    phrases=FROM_LOSS,
)
def guard_is_zero(tool: Tool, healthy: bool) -> nn.Module:
    def loss_of(model: nn.Module, batch: Tensor) -> Tensor:
        scores = model(batch).squeeze(-1)
        if not healthy:
            scores = scores * 0 + 1  # four documents that score alike
        low, high = scores.min(), scores.max()
        scaled = (scores - low) / (high - low + 1e-8)  # culprit
        return scaled.float().square().mean()

    model = small_model(1).half()
    return trained(tool, model, loss_of, [x.half() for x in normal(4, 4)])
