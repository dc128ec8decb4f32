"""What a run of the built-in loop goes on from: all that its next step depends on, and its record.

A batch is a function of seed and step, and the learning rate of the step, so that of the data and
the schedule there is nothing to keep but the number of the next step.
"""

import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gradlab.config import RunConfig
from gradlab.errors import GradlabError, GradlabWarning
from gradlab.parallel.ranks import Ranks
from gradlab.parallel.spread import fill, is_spread, own_part
from gradlab.precision.device_facts import changed_facts
from gradlab.runs.memory import MemoryWriter
from gradlab.runs.same import check_same
from gradlab.runs.writer import RunWriter
from gradlab.training.checkpoint import FOLDER, Checkpoint, Like, found, read, remove, step_of
from gradlab.training.judged_run import JudgedRun
from gradlab.training.step import Learner
from gradlab.training.weights import shapes


def taken(
    config: RunConfig,
    made_on: Mapping[str, Any],
    learner: Learner,
    judged: JudgedRun,
    writer: RunWriter | MemoryWriter | None = None,
) -> Checkpoint:
    """A run's checkpoint, between two steps. A collective call, if several processes train.

    Args:
        config: Of the run.
        made_on: What decides its bits beside the config (`bits_depend_on`).
        learner: What is trained.
        judged: Its record, which looks at what it has not seen yet, and writes its rows.
        writer: Where to; in memory or None if nobody is to go on with its rows.
    """
    judged.look()
    state = judged.state()
    facts = {
        "step": judged.follower.next_step,
        "config": config.model_dump(mode="json"),
        "made_on": made_on,
        "scaler": learner.scaler.state_dict(),
        "judged": state,
        "follower": judged.follower.carried(),
        "written": writer.mark() if isinstance(writer, RunWriter) else {},
    }
    found = {name: x.detach() for name, x in _tensors(learner).items()}
    return Checkpoint(facts, {n: x if is_spread(x) else x.cpu() for n, x in found.items()})


def bytes_of(learner: Learner) -> int:
    """How large a checkpoint will be, about: the optimizer makes its two moments with a step."""
    trained = sum(3 * own_part(x).numel() * x.element_size() for x in learner.trained)
    return trained if learner.masters is None else trained * 7 // 6  # and the fp16 weights


def go_on(
    writer: RunWriter | MemoryWriter,
    config: RunConfig,
    made_on: Mapping[str, Any],
    learner: Learner,
) -> Checkpoint | None:
    """Make a run's folder and the learner what they were at its newest checkpoint.

    Where the bits may differ, a warning says so in a sentence.

    Args:
        writer: Of the folder; given up if there is no way to go on. In memory in all processes but
            the first, which says where they go on.
        config: Of the run.
        made_on: As of `taken`, here and now.
        learner: At its initial values.

    Returns:
        The checkpoint; None if there is none, and the run begins at step 0.

    Raises:
        GradlabError: None of those that there are can be used, or they are another run's.
    """
    like = partial(_like, learner)
    try:
        found_here = _go_back(writer, config, like) if isinstance(writer, RunWriter) else None
        path = learner.ranks.from_first(found_here and str(found_here[0]))
        if path is None:
            return None
        checkpoint = found_here[1] if found_here else read(Path(path), like)
        put_back(checkpoint, learner)
        _warn_of_other_bits(checkpoint.facts["made_on"], made_on)
        return checkpoint
    except BaseException:
        if isinstance(writer, RunWriter):
            writer.give_up()
        raise


def _go_back(writer: RunWriter, config: RunConfig, like: Like) -> tuple[Path, Checkpoint] | None:
    """The newest checkpoint of a run that can be used; its tables are made as they were then."""
    refused: dict[str, str] = {}
    for path in (files := found(writer.path)):
        try:
            checkpoint = read(path, like)
            check_same(path, RunConfig.from_mapping(checkpoint.facts["config"]), config)
            writer.go_back(checkpoint.facts["written"])
        except GradlabError as error:
            refused[str(path)] = str(error).rstrip(".")
            continue
        if refused:
            remove(files[: len(refused)])  # they are of steps that come again
            why = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
            warnings.warn(
                f"the newest checkpoint cannot be used ({why}): the run goes on from the one "
                f"before, at step {step_of(path)}.",
                GradlabWarning,
                stacklevel=2,
            )
        return path.resolve(), checkpoint
    if refused:
        why = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
        raise GradlabError(
            f"no checkpoint of the run can be used ({why}): remove {writer.path / FOLDER} to begin "
            "again at step 0."
        )
    writer.go_back({})
    return None


def put_back(checkpoint: Checkpoint, learner: Learner) -> None:
    """Make weights, optimizer, loss scale and random states what they were.

    Raises:
        GradlabError: The checkpoint is of another model.
    """
    tensors = checkpoint.tensors
    weights = weights_of(learner)
    given = {name: x for name, x in tensors.items() if name.startswith(("model.", "master."))}
    if shapes(weights) != shapes(given):
        raise GradlabError("the checkpoint is of another model than this version of gradlab makes.")
    for name, x in weights.items():
        fill(x, given[name])
    moments: dict[int, dict[str, Tensor]] = {}
    for name, x in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            moments.setdefault(int(index), {})[key] = _as_trained(x, learner.trained[int(index)])
    groups = learner.optimizer.state_dict()["param_groups"]
    learner.optimizer.load_state_dict({"state": moments, "param_groups": groups})
    learner.scaler.load_state_dict(checkpoint.facts["scaler"])
    _put_back_random(checkpoint, learner)


def _like(learner: Learner, name: str, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """What a tensor of a checkpoint is read into: spread over the processes if the learner's is."""
    x = weights_of(learner).get(name)
    if name.startswith("optimizer."):
        x = learner.trained[int(name.split(".", 2)[1])]
    if x is None or x.shape != shape or not is_spread(x):
        return torch.empty(shape, dtype=dtype, device="cpu")
    return torch.empty_like(x, dtype=dtype, requires_grad=False)


def _as_trained(x: Tensor, parameter: Tensor) -> Tensor:
    """What an optimizer keeps of a parameter, spread over the processes if that is."""
    if not is_spread(parameter) or is_spread(x) or x.shape != parameter.shape:
        return x
    part = torch.empty_like(parameter, dtype=x.dtype)
    fill(part, x)
    return part


def _put_back_random(checkpoint: Checkpoint, learner: Learner) -> None:
    """Dropout goes on where it was in each process, and begins anew where their number changed."""
    ranks, device = learner.ranks, learner.precision.device
    on_cuda = "random.cuda" in checkpoint.tensors and device.type == "cuda"
    states = checkpoint.tensors["random.cpu"]
    if states.numel() // states.shape[-1] != ranks.size:
        seed = ranks.seed(checkpoint.facts["config"]["seed"] + checkpoint.facts["step"])
        torch.default_generator.manual_seed(seed)
        if on_cuda:
            with torch.cuda.device(device):  # torch.manual_seed reseeds those of all devices
                torch.cuda.manual_seed(seed)
        return
    torch.default_generator.set_state(_own(states, ranks))
    if on_cuda:
        torch.cuda.set_rng_state(_own(checkpoint.tensors["random.cuda"], ranks), device)


def _own(states: Tensor, ranks: Ranks) -> Tensor:
    return states.reshape(-1, states.shape[-1])[ranks.rank].clone()


def _warn_of_other_bits(made_on: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Say in a sentence what differs from where a checkpoint was made, if something does."""
    if changes := list(changed_facts(made_on, now)):
        threads = made_on.get("threads", now["threads"])  # an older checkpoint does not say
        remedy = "" if threads == now["threads"] else f" OMP_NUM_THREADS={threads} gives it those."
        warnings.warn(
            f"the run goes on elsewhere than it was begun ({', '.join(changes)}): its numbers may "
            f"differ in their last bits from those of a run that was never stopped.{remedy}",
            GradlabWarning,
            stacklevel=2,
        )


def weights_of(learner: Learner) -> dict[str, Tensor]:
    """The model's parameters and what of its buffers is not made anew, and the fp32 copies."""
    named: dict[str, Tensor] = {f"model.{n}": x for n, x in learner.model.state_dict().items()}
    if learner.masters is not None:
        named |= {f"master.{index}": x for index, x in enumerate(learner.masters.parameters)}
    return named


def _tensors(learner: Learner) -> dict[str, Tensor]:
    """All tensors of a run by name, those of the optimizer under each parameter's index."""
    named = weights_of(learner)
    for index, state in learner.optimizer.state_dict()["state"].items():
        named |= {f"optimizer.{index}.{key}": x for key, x in state.items()}
    named["random.cpu"] = learner.ranks.stacked(torch.default_generator.get_state())
    if learner.precision.device.type == "cuda":
        state = torch.cuda.get_rng_state(learner.precision.device)
        named["random.cuda"] = learner.ranks.stacked(state)
    return named
