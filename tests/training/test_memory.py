"""Where memory runs out, a run ends with one sentence and a record that can be read."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import gradlab
from gradlab.config import RecordConfig, RunConfig
from gradlab.errors import GradlabError
from gradlab.models.attention import Scores
from gradlab.training.loop import train
from gradlab.training.memory_needed import memory_in_words

Make = Callable[..., RunConfig]


def no_gpu_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def no_handle() -> None:
    raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")


def no_cpu_memory() -> None:
    torch.empty(2**55)


def no_python_memory() -> None:
    bytearray(2**55)


def another_error() -> None:
    raise RuntimeError("the size of tensor a must match")


@pytest.fixture
def in_a_step() -> Iterator[Callable[[Callable[[], None]], None]]:
    """Calls a function in the forward pass of a run's third step."""
    handles = []

    def call(fail: Callable[[], None]) -> None:
        calls = 0

        def on_forward(module: nn.Module, args: object, output: object) -> None:
            nonlocal calls
            calls += isinstance(module, Scores)
            if calls == 5:  # of two layers
                fail()

        handles.append(nn.modules.module.register_module_forward_hook(on_forward))

    yield call
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("fail", [no_gpu_memory, no_handle, no_cpu_memory, no_python_memory])
def test_a_run_that_runs_out_of_it(
    make_config: Make, tmp_path: Path, in_a_step: Callable[..., None], fail: Callable[[], None]
) -> None:
    in_a_step(fail)
    config = make_config(record=RecordConfig(window=50))
    with pytest.raises(GradlabError, match=r"batch_size \(it is 4.*max_seq_len \(16\)") as raised:
        train(config, tmp_path / "run")
    assert raised.value.__cause__ is not None
    run = gradlab.load(tmp_path / "run")
    assert run.info["status"] == "error"
    assert run.info["error"] == str(raised.value)
    assert run.table("steps")["step"].tolist() == [0, 1]
    assert len(run.table("headroom"))


def test_what_filled_it_is_let_go(make_config: Make, in_a_step: Callable[..., None]) -> None:
    in_a_step(no_gpu_memory)
    with pytest.raises(GradlabError) as raised:
        train(make_config())
    cause = raised.value.__cause__
    assert cause is not None
    trace = cause.__traceback__
    held = []
    while trace is not None:
        held += [x for x in trace.tb_frame.f_locals.values() if isinstance(x, torch.Tensor)]
        trace = trace.tb_next
    assert not held


@pytest.mark.parametrize(
    ("free", "said"), [(2, "other processes hold 70.0 GB (80.0 GB in all)"), (71, "memory: choose")]
)
def test_others_on_the_same_gpu_are_named(
    make_config: Make, monkeypatch: pytest.MonkeyPatch, free: int, said: str
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free * 10**9, 80 * 10**9))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 8 * 10**9)
    with (
        pytest.raises(GradlabError, match=re.escape(said)),
        memory_in_words(make_config(), torch.device("cuda")),
    ):
        no_gpu_memory()


def test_where_the_gpu_cannot_even_say_how_full_it_is(
    make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: no_handle())
    with (
        pytest.raises(GradlabError, match="cuda ran out of memory: choose"),
        memory_in_words(make_config(), torch.device("cuda")),
    ):
        no_gpu_memory()


def test_another_error_stays_what_it_is(
    make_config: Make, tmp_path: Path, in_a_step: Callable[..., None]
) -> None:
    in_a_step(another_error)
    with pytest.raises(RuntimeError, match="must match"):
        train(make_config(), tmp_path / "run")
