"""One training step, the same on CPU and CUDA, for every architecture and precision."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from gradlab.config import RunConfig
from gradlab.data.masking import chosen_of
from gradlab.models.build import build_model
from gradlab.models.loss import token_loss, z_loss
from gradlab.models.transformer import Transformer
from gradlab.parallel.model import reducing, sharded_model, unreduced
from gradlab.parallel.ranks import ALONE, Ranks
from gradlab.parallel.spread import own_part
from gradlab.precision.master_weights import MasterWeights
from gradlab.precision.precision import Precision, resolve
from gradlab.probes.probe import Subject
from gradlab.training.compiled import compiled
from gradlab.training.gradients import clip_by_norm, total_norm

MicroBatch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Learner:
    """All that a step changes, and how it computes."""

    model: Transformer
    forward: Callable[[Tensor], Tensor]
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    precision: Precision
    masters: MasterWeights | None
    clip_norm: float | None
    z_loss: float
    ranks: Ranks = ALONE

    @property
    def trained(self) -> list[Tensor]:
        """The parameters that the optimizer holds: the model's, or their fp32 copies."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    @property
    def subject(self) -> Subject:
        """The model as probes see it; with fp32 master copies, those are what is trained."""
        parameters = dict(self.model.named_parameters())
        return Subject(
            self.model,
            parameters,
            {name: module for name, module in self.model.named_modules() if name},
            dict(zip(parameters, self.trained, strict=True)),
            (self.optimizer,),
        )

    def targets_in_share(self, targets: Tensor) -> float | None:
        """What a share's losses are divided by: their mean over processes is the whole batch's.

        Shares of a masked model's batch have each another number of targets: it is the mean of
        these numbers, which is known without asking.

        Args:
            targets: Of this process's share of a batch, (B, T).

        Returns:
            None if it is the number of targets there.
        """
        size = self.ranks.size
        if size == 1 or self.model.config.is_causal:
            return None
        return chosen_of(targets.numel() * size) / size


@dataclass(frozen=True)
class StepResult:
    """What a step has shown before it changes the weights: 0-dim tensors, still on the device.

    Attributes:
        loss: Mean over the micro-batches, nats a token, fp32; without the z-loss. Of several
            processes each has that of its share, and their mean is the whole batch's.
        grad_norm: L2 norm of the gradient: unscaled, before clipping, after accumulation.
    """

    loss: Tensor
    grad_norm: Tensor


def make_learner(config: RunConfig, device: torch.device, ranks: Ranks = ALONE) -> Learner:
    """The model at its initial values for `config.seed`, and a fused AdamW over all of it."""
    precision = resolve(config.precision, device)
    make = sharded_model if ranks.kind == "fsdp" else build_model
    model = make(config.model, device=device, dtype=precision.weight_dtype, seed=config.seed)
    narrow = precision.weight_dtype is torch.float16
    masters = MasterWeights(model, config.precision.master_weights) if narrow else None
    settings = config.optimizer
    optimizer = torch.optim.AdamW(
        masters.parameters if masters else model.parameters(),
        lr=0.0,
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
        weight_decay=settings.weight_decay,
        fused=True,
    )
    forward = compiled(model) if config.compile else reducing(model, ranks)
    return Learner(
        model,
        forward,
        optimizer,
        precision.grad_scaler(),
        precision,
        masters,
        settings.clip_norm,
        settings.z_loss,
        ranks,
    )


def training_step(
    learner: Learner,
    batches: Sequence[MicroBatch],
    lr: float,
    *,
    note: Callable[[StepResult], None] = lambda _: None,
) -> StepResult:
    """Zero the gradients, forward, backward, unscale, measure, clip, then step or skip.

    Nothing here reads a device value on the host: a step with a gradient that is not finite is
    skipped by the fused optimizer itself.

    Args:
        learner: Changed in place.
        batches: Micro-batches (inputs, targets), each (B, T) on the model's device; the loss is
            their mean. Of several processes each gives its share of them.
        lr: This step's learning rate.
        note: Called with the result before the optimizer steps or skips.
    """
    optimizer, scaler, masters = learner.optimizer, learner.scaler, learner.masters
    for group in optimizer.param_groups:
        group["lr"] = lr
    if masters:
        learner.model.zero_grad()
    else:
        optimizer.zero_grad()  # the same, without a walk through the modules
    losses: list[Tensor] = []
    with learner.precision.arithmetic():
        for inputs, targets in batches:
            is_last = len(losses) + 1 == len(batches)
            with nullcontext() if is_last else unreduced(learner.forward):
                with learner.precision.autocast():
                    logits = learner.forward(inputs)
                count = learner.targets_in_share(targets)
                objective = loss = token_loss(logits, targets, count) / len(batches)
                if learner.z_loss:
                    z = z_loss(logits, targets, count)
                    objective = loss + learner.z_loss * z / len(batches)
                del logits  # the largest tensor of all, which no backward pass needs
                if learner.ranks.size > 1:  # the batch's objective is the sum of theirs
                    objective = objective / learner.ranks.size
                scaler.scale(objective).backward()
            losses.append(loss.detach())
    if masters:
        masters.take_gradients()
    scaler.unscale_(optimizer)
    gradients = [own_part(g) for p in learner.trained if (g := p.grad) is not None]
    grad_norm = learner.ranks.norm(total_norm(gradients))
    if learner.clip_norm is not None:
        clip_by_norm(gradients, grad_norm, learner.clip_norm)
    result = StepResult(torch.stack(losses).sum(), grad_norm)
    note(result)
    scaler.step(optimizer)
    scaler.update()
    if masters:
        masters.write_back()
    return result
