"""Probes in Lightning's `Trainer`."""

from typing import Any

import torch
from torch import Tensor
from torch.amp import GradScaler

from gradlab.extra import needs_extra
from gradlab.integrations.callback import AttachingCallback

with needs_extra("lightning", "gradlab.integrations.lightning", "lightning"):
    from lightning.pytorch import Callback


class GradlabCallback(AttachingCallback, Callback):
    """Records a `Trainer`'s training.

        trainer = Trainer(..., callbacks=[callback := GradlabCallback("runs/mine")])
        trainer.fit(module, loader)
        callback.probes.table("grad_norms")

    A step is one of the optimizer; of several, it ends when each has stepped, or when the module
    or a part of it is called again before. Gradients are whole, unscaled, and not clipped yet. The
    loss is the one that `training_step` returned, or that was given to `manual_backward`; of
    several in a step, their mean. The names of parameters and sites are the LightningModule's.

    A training that raises is recorded as ended by the error. One resumed at step 500 is recorded
    beside the first, in `runs/mine-from-500`.

    Args:
        out, every, events, probes, memory, sinks, meta, window, keep, keep_steps: As
            `gradlab.attach` takes them.
    """

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Attach: the model is on its device, optimizers and a checkpoint are there."""
        # Lightning counts the steps of each optimizer.
        first_step = trainer.global_step // max(1, len(trainer.optimizers))
        self._begin(pl_module, trainer.optimizers, _scaler(trainer), first_step)

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        """Note a micro-batch's loss: before Lightning divided it, and the scaler scaled it."""
        loss = loss.detach() * trainer.accumulate_grad_batches
        scaler = _scaler(trainer)
        if scaler is not None:
            loss = loss / scaler.scale(torch.ones((), device=loss.device))
        self.probes.loss(loss)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Close."""
        self._close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Close, and say what ended the training."""
        self._close(exception)


def _scaler(trainer: Any) -> GradScaler | None:
    """The GradScaler of a mixed-precision plugin."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return scaler if isinstance(scaler, GradScaler) else None
