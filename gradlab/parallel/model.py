"""A model as several processes hold it, whose gradients are summed over all of them.

A process's objective is divided by their number (`gradlab.training.step`), so that every gradient
there, of activations too, is what it would be in one process on the whole batch: torch would rather
have each process's own mean and average the gradients, which within the model are then larger.
"""

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from gradlab.models.build import build_model
from gradlab.models.config import ModelConfig
from gradlab.models.init import initialise
from gradlab.models.transformer import Transformer
from gradlab.parallel.ranks import Ranks


def sharded_model(
    config: ModelConfig, *, device: torch.device, dtype: torch.dtype, seed: int
) -> Transformer:
    """A model of which each process holds a part, by FSDP2: a group a block, and one of the rest.

    It has the initial values of `build_model`. No process ever has memory for more of it than its
    part, and one parameter as its values are drawn.

    Args:
        config: Shape and switches.
        device: Of this process's part.
        dtype: Of the parameters.
        seed: Decides the initial values.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    model = build_model(config, device="meta", dtype=dtype)
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for part in (*model.blocks, model):
        fully_shard(part, mesh=mesh)
        assert isinstance(part, FSDPModule)
        part.set_gradient_divide_factor(1.0)
        part.set_force_sum_reduction_for_comms(True)  # the other ways to divide need NCCL
    model.to_empty(device=device)
    initialise(model, config, seed)
    return model


def reducing(model: Transformer, ranks: Ranks) -> Callable[[Tensor], Tensor]:
    """The forward pass of a model whose gradients are summed over the processes that have it all.

    Args:
        model: On its device.
        ranks: With a model for each, or a part of it: then it is the model's own.
    """
    if ranks.kind != "ddp":
        return model
    device = next(model.parameters()).device
    with warnings.catch_warnings():
        # Newer versions would have it called otherwise, which older ones do not know.
        warnings.filterwarnings("ignore", "`broadcast_buffers`", FutureWarning)
        wrapped = DistributedDataParallel(
            model, device_ids=[device] if device.type == "cuda" else None, broadcast_buffers=False
        )
    wrapped.register_comm_hook(None, _sum)
    return wrapped


def unreduced(forward: Callable[[Tensor], Tensor]) -> AbstractContextManager[Any]:
    """The context of a micro-batch that is not a step's last: its gradients need no sum yet.

    Those of FSDP2 are summed at once, as a process has no memory for a whole model's.
    """
    return forward.no_sync() if isinstance(forward, DistributedDataParallel) else nullcontext()


def put_away(model: Transformer, ranks: Ranks) -> None:
    """Give up what passes without a backward pass have gathered of a model, if processes share it.

    Its parameters are then again the parts that the optimizer holds.
    """
    if ranks.kind == "fsdp":
        from torch.distributed.fsdp import FSDPModule

        assert isinstance(model, FSDPModule)
        model.reshard()


def _sum(
    _: None,
    bucket: dist.GradBucket,  # type: ignore[name-defined]  # DDP insists on this very name
) -> torch.futures.Future[Tensor]:
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    assert work is not None
    done: torch.futures.Future[Tensor] = work.get_future().then(lambda found: found.value()[0])
    return done
