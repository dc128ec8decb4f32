"""Run cases under a tool, in processes of its own."""

import hashlib
import importlib.util
import multiprocessing
import tempfile
import traceback
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
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


def judge(case: Case, bare: Run, bare_twin: Run, run: Run, twin: Run) -> Score:
    """What a tool did, beside the bare runs."""
    is_disturbed = twin.weights != bare_twin.weights or bool(run.error)
    return Score(
        outcome(case, run.claims, twin.claims, bare.parameters),
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


def runs_apart(tool: str, cases: Iterable[Case], limit: float) -> Iterator[tuple[Run, Run]]:
    """Each case's healthy twin and then the case itself, under one tool, in processes of its own.

    They go from case to case, and new ones take over from those that die or take longer than
    `limit` seconds.
    """
    workers: dict[int, Workers] = {}
    try:
        for case in cases:
            if case.ranks not in workers:
                workers[case.ranks] = Workers(case.ranks)
            twins, runs = zip(*workers[case.ranks].run(tool, case, limit), strict=True)
            if case.ranks > 1 or any(run.error for run in (*twins, *runs)):
                workers.pop(case.ranks).close()
            yield together(twins), together(runs)
    finally:
        for left in workers.values():
            left.close()


class Workers:
    """Processes, one a rank, that run the cases they are told to, under the tools they are told."""

    def __init__(self, ranks: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.folder = tempfile.TemporaryDirectory()
        self.processes, self.lines = [], []
        for rank in range(ranks):
            here, there = context.Pipe()
            place = (rank, ranks, str(Path(self.folder.name) / "store"))
            process = context.Process(target=_work, args=(place, there), daemon=True)
            process.start()
            self.processes.append(process)
            self.lines.append(here)

    def run(self, tool: str, case: Case, limit: float) -> list[tuple[Run, Run]]:
        """The twin's run and the case's, of each rank."""
        for line in self.lines:
            line.send((tool, case.key))
        by_rank = []
        for line in self.lines:
            runs = (Run(error=f"did not end within {limit:g} s"),) * 2
            if line.poll(limit):
                with suppress(EOFError):  # it died
                    runs = line.recv()
            by_rank.append(runs)
        return by_rank

    def close(self) -> None:
        """End them."""
        for process in self.processes:
            process.kill()
            process.join()
        self.folder.cleanup()


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


def _work(place: tuple[int, int, str], line: Connection) -> None:
    torch.set_num_threads(1)
    rank, ranks, store = place
    if ranks > 1:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{store}",
            rank=rank,
            world_size=ranks,
            timeout=timedelta(seconds=20),
        )
    while True:
        tool, key = line.recv()
        make_tool, case = Tool if tool == Tool.title else TOOLS[tool], CASES[key]
        line.send(tuple(run_here(case, make_tool(), healthy) for healthy in (True, False)))


def installed(tool: str) -> bool:
    """Whether a tool can be run here."""
    package = TOOLS[tool].package
    return package is None or bool(importlib.util.find_spec(package.partition("-")[0]))
