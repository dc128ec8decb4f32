"""Run a case under a tool, in processes of its own."""

import hashlib
import importlib.util
import multiprocessing
import tempfile
import traceback
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

import gradlab
from benchmarks.diagnosis.case import Case
from benchmarks.diagnosis.cases import CASES
from benchmarks.diagnosis.rule import outcome, says_wrong
from benchmarks.diagnosis.tool import Tool
from benchmarks.diagnosis.tools import TOOLS

PRELOADED = ("wandb", "trainscope", "sherlorch")
"""Imported once, before the processes are forked.

Not transformers: it loads a thousand modules when they are asked about, and sherlorch's look at the
stack asks about every module that is there.
"""


@dataclass(frozen=True)
class Run:
    """What came of a training.

    Attributes:
        claims: The tool's.
        weights: A digest of what was trained, buffers included; empty if an error ended it.
        parameters: Names of the model's parameters.
        error: What came up that is not the tool's way to report; empty if nothing did.
        is_cut: Whether the tool ended the training to report.
    """

    claims: tuple[str, ...] = ()
    weights: str = ""
    parameters: tuple[str, ...] = ()
    error: str = ""
    is_cut: bool = False


@dataclass(frozen=True)
class Score:
    """How a tool did on a case: `named`, `noticed` or `silent`, and what it should not do."""

    outcome: str
    is_disturbed: bool
    is_false_alarm: bool
    claims: tuple[str, ...]
    claims_of_twin: tuple[str, ...]
    error: str


def score(case: Case, tool: str, limit: float) -> Score:
    """Run a case and its healthy twin, bare and under a tool."""
    bare_twin, bare = run_apart(case, Tool.title, limit)
    twin, run = run_apart(case, tool, limit)
    if bare.error or bare_twin.error:
        raise RuntimeError(f"{case.key} itself fails: {bare.error or bare_twin.error}")
    return judge(case, bare, bare_twin, run, twin)


def judge(case: Case, bare: Run, bare_twin: Run, run: Run, twin: Run) -> Score:
    """What a tool did, beside the bare runs."""
    is_disturbed = twin.weights != bare_twin.weights or bool(run.error)
    return Score(
        outcome(case, run.claims, bare.parameters),
        is_disturbed or (not run.is_cut and run.weights != bare.weights),
        any(map(says_wrong, twin.claims)),
        run.claims,
        twin.claims,
        run.error or twin.error,
    )


def run_here(case: Case, tool: Tool, healthy: bool) -> Run:
    """One training in this process, in emulated FP16."""
    with gradlab.emulated_fp16(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model = case.train(tool, healthy)
        except Exception as error:
            if tool.is_report(error):
                said = f"{type(error).__name__}: {error}"
                return Run((*tool.claims(), said), is_cut=True)
            return Run(error="".join(traceback.format_exception(error)[-3:]))
    names = tuple(name for name, _ in model.named_parameters())
    return Run(tuple(tool.claims()), digest(model), names)


def digest(model: nn.Module) -> str:
    """Of every bit of its state."""
    whole = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        whole.update(name.encode())
        whole.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()


@cache
def run_apart(case: Case, tool: str, limit: float) -> tuple[Run, Run]:
    """The twin's training and then the case's, in as many new processes as the case needs.

    They are killed after `limit` seconds.
    """
    by_rank = []
    with tempfile.TemporaryDirectory() as folder:
        started = []
        for rank in range(case.ranks):
            answer, question = _context.Pipe(duplex=False)
            place = (rank, str(Path(folder) / "store"))
            process = _context.Process(target=_in_child, args=(case.key, tool, place, question))
            process.start()
            question.close()
            started.append((process, answer))
        for _, answer in started:
            runs = (Run(error=f"did not end within {limit:g} s"),) * 2
            if answer.poll(limit):
                with suppress(EOFError):  # it died
                    runs = answer.recv()
            by_rank.append(runs)
        for process, _ in started:
            process.kill()
            process.join()
    twins, runs = zip(*by_rank, strict=True)
    return together(twins), together(runs)


def together(runs: Sequence[Run]) -> Run:
    """The processes' runs as one: who said it stands before what not all of them said."""
    if len(runs) == 1:
        return runs[0]
    claims = [
        claim if all(claim in other.claims for other in runs) else f"rank {rank}: {claim}"
        for rank, run in enumerate(runs)
        for claim in run.claims
    ]
    is_cut = any(run.is_cut for run in runs)  # the others then fail without it
    error = "" if is_cut else "".join(run.error for run in runs)
    return replace(runs[0], claims=tuple(dict.fromkeys(claims)), error=error, is_cut=is_cut)


def _in_child(key: str, tool: str, place: tuple[int, str], answer: Connection) -> None:
    torch.set_num_threads(1)
    case, (rank, store) = CASES[key], place
    if case.ranks > 1:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{store}",
            rank=rank,
            world_size=case.ranks,
            timeout=timedelta(seconds=20),
        )
    make_tool = Tool if tool == Tool.title else TOOLS[tool]
    answer.send([run_here(case, make_tool(), healthy) for healthy in (True, False)])
    answer.close()


def installed(tool: str) -> bool:
    """Whether a tool can be run here."""
    package = TOOLS[tool].package
    return package is None or bool(importlib.util.find_spec(package.partition("-")[0]))


def _forking() -> multiprocessing.context.BaseContext:
    """Processes that fork from one which has imported everything, where there are such."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    present = [name for name in PRELOADED if importlib.util.find_spec(name.partition(".")[0])]
    context.set_forkserver_preload([__name__, *present])
    return context


_context = _forking()
