"""Probes in Hugging Face's `Trainer`."""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gradlab.extra import needs_extra
from gradlab.integrations.callback import AttachingCallback
from gradlab.probes.engine.own_hook import LeftOut, own
from gradlab.probes.selection import unwrapped

with needs_extra("transformers", "gradlab.integrations.huggingface", "transformers"):
    from transformers import TrainerCallback


class GradlabCallback(AttachingCallback, TrainerCallback):
    """Records a `Trainer`'s training.

        trainer = Trainer(model, args, ..., callbacks=[callback := GradlabCallback("runs/mine")])
        trainer.train()
        callback.probes.table("grad_norms")

    A step is one of the optimizer: gradients are whole, unscaled, and not clipped yet. The loss is
    the model's own, averaged as the Trainer averages it; it is missing where the model does not
    return it (label smoothing, a loss function given to the Trainer, torch.compile).

    The Trainer tells its callbacks of no exception. A script that ends with one is recorded as
    ended by it, at the interpreter's exit; to go on after one, have the callback close by itself:

        with GradlabCallback("runs/mine") as callback:
            Trainer(model, args, ..., callbacks=[callback]).train()

    A training resumed at step 500 is recorded beside the first, in `runs/mine-from-500`.

    Args:
        out, every, events, probes, memory, sinks, meta, window, keep, keep_steps: As
            `gradlab.attach` takes them.
    """

    _losses: list[Tensor]
    _is_share = False
    _handles: Sequence[RemovableHandle | LeftOut] = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end(error)

    def on_train_begin(
        self,
        args: Any,
        state: Any,
        control: Any,
        *,
        model: nn.Module,
        optimizer: Any,
        **kwargs: Any,
    ) -> None:
        """Attach: the model is on its device, and the optimizer made."""
        self._end(None)
        # The Trainer compiles a model without telling; a wrapper that is never called tells attach.
        seen: Any = torch.compile(model, backend="eager") if args.torch_compile else model
        # Accelerate's optimizer is the one that knows the scaler.
        scaler = getattr(optimizer, "scaler", None)
        self._begin(seen, [optimizer], scaler, state.global_step)
        inner = unwrapped(model)
        hook = inner.register_forward_hook(self._on_output, with_kwargs=True)
        self._handles = (hook, *own([hook], inner))

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note the loss of the step whose passes are over."""
        losses, self._losses = self._losses, []
        if losses:
            total = torch.stack(losses).sum()
            if not self._is_share:
                total = total / len(losses)
            elif args.average_tokens_across_devices:
                total = total * args.world_size
            self.probes.loss(total)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close."""
        self._end(None)

    def _end(self, error: BaseException | None) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = ()
        self._losses = []
        self._close(error)

    def _on_output(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if torch.compiler.is_compiling() or not (module.training and torch.is_grad_enabled()):
            return
        # The Trainer's own rule. Told the number of labels in all micro-batches, a model returns
        # its micro-batch's share of the step's loss.
        loss = None
        if isinstance(output, Mapping):
            loss = output.get("loss")
        elif isinstance(output, tuple | list) and output:
            loss = output[0]
        if isinstance(loss, Tensor) and loss.numel() == 1:
            self._losses.append(loss.detach().reshape(()))
            self._is_share = kwargs.get("num_items_in_batch") is not None
