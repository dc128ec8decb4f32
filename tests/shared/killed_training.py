"""A run in a process of its own, to be killed."""

import hashlib
import json
import multiprocessing
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from gradlab.config import RunConfig


def start(config: RunConfig, out: Path) -> BaseProcess:
    """A process that trains or goes on, and writes a digest of the weights at the end beside it.

    It is made by a server that has imported what it needs.
    """
    context: Any = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
    if sys.platform == "linux":
        context.set_forkserver_preload(["gradlab.training.loop", "torch._dynamo"])
    process: BaseProcess = context.Process(
        target=_train, args=(config.model_dump_json(), out), daemon=True
    )
    process.start()
    return process


def _train(config: str, out: Path) -> None:
    import torch

    from gradlab.training import loop as module

    loop: Any = module
    torch.set_num_threads(1)
    learners: list[Any] = []
    make_learner = loop.make_learner

    def kept(*given: Any) -> Any:
        learners.append(make_learner(*given))
        return learners[-1]

    loop.make_learner = kept
    loop.train(RunConfig.from_mapping(json.loads(config)), out, resume=True)
    if learners:  # else it had finished before
        weights = [x.numpy().tobytes() for x in learners[0].model.state_dict().values()]
        out.with_name(f"{out.name}.weights").write_text(
            hashlib.sha256(b"".join(weights)).hexdigest()
        )
