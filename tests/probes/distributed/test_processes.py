"""Several processes' parts of a step find together, whatever one of them does."""

import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.distributed as dist
from torch import nn

import gradlab
from gradlab.errors import GradlabError, GradlabWarning
from gradlab.probes import AttentionScores, Headroom
from gradlab.probes.distributed import processes
from gradlab.probes.distributed.processes import Processes, processes_of
from gradlab.probes.engine.follower import LoopFollower
from gradlab.probes.engine.window import HostStep, RecordedStep
from gradlab.probes.subject import subject_of


def steps(*numbers: int, loss: float = 0.0) -> list[HostStep]:
    return [HostStep(n, True, None, 0.0, 1.0, False, (loss,), {}) for n in numbers]


def losses(parts: list[list[HostStep]]) -> dict[int, list[float]]:
    return {part[0].step: [step.losses[0] for step in part] for part in parts}


@pytest.fixture
def pair() -> tuple[Processes, Processes]:
    store = dist.HashStore()
    return Processes(0, [0, 1], store), Processes(1, [0, 1], store)


def test_parts_of_a_step_find_together(pair: tuple[Processes, Processes]) -> None:
    first, second = pair
    assert losses(second.together(steps(0, 1, loss=2.0), shared=(), wait=True)) == {
        0: [2.0],
        1: [2.0],
    }
    assert losses(first.together(steps(0, 1, loss=1.0), shared=(), wait=True)) == {
        0: [1.0, 2.0],
        1: [1.0, 2.0],
    }


def test_without_waiting_a_step_comes_once_it_is_whole(pair: tuple[Processes, Processes]) -> None:
    first, second = pair
    second.together(steps(0), shared=(), wait=True)
    assert losses(first.together(steps(0, 1, 2), shared=(), wait=False)) == {0: [0.0, 0.0]}
    assert first.together([], shared=(), wait=False) == []
    second.together(steps(1, 2), shared=(), wait=True)
    assert losses(first.together([], shared=(), wait=False)) == {1: [0.0, 0.0], 2: [0.0, 0.0]}


def test_windows_of_different_lengths(pair: tuple[Processes, Processes]) -> None:
    first, second = pair
    for step in range(5):
        second.together(steps(step, loss=1.0), shared=(), wait=True)
    assert len(losses(first.together(steps(0, 1, 2), shared=(), wait=True))) == 3
    assert losses(first.together(steps(3, 4), shared=(), wait=True)) == {
        3: [0.0, 1.0],
        4: [0.0, 1.0],
    }


def test_one_that_ended_early_keeps_nobody_waiting(
    pair: tuple[Processes, Processes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "PATIENCE", 1e9)
    first, second = pair
    second.together(steps(0), shared=(), wait=True)
    second.leave()
    assert losses(first.together(steps(0, 1), shared=(), wait=True)) == {0: [0.0, 0.0], 1: [0.0]}


def test_where_only_the_first_attached_it_says_so_at_once() -> None:
    first = Processes(0, [0, 1, 2], dist.HashStore())
    said = "no probes are attached to this model in processes 1, 2: call attach"
    with pytest.warns(GradlabWarning, match=said):
        assert losses(first.together(steps(0), shared=(), wait=True)) == {0: [0.0]}
    with warnings.catch_warnings():  # once
        warnings.simplefilter("error")
        assert losses(first.together(steps(1), shared=(), wait=True)) == {1: [0.0]}


def test_where_the_first_did_not_attach_nothing_piles_up() -> None:
    store = dist.HashStore()
    second = Processes(1, [0, 1], store)
    before = store.num_keys()
    assert losses(second.together(steps(0), shared=(), wait=True)) == {0: [0.0]}
    assert store.num_keys() == before


def test_nothing_piles_up(pair: tuple[Processes, Processes]) -> None:
    first, second = pair
    store = first._store
    counts = set()
    for step in range(4):
        second.together(steps(step), shared=(), wait=True)
        first.together(steps(step), shared=(), wait=True)
        counts.add(store.num_keys())
    assert len(counts) == 1
    assert not first._theirs


def test_only_what_is_shared_is_sent_and_in_pieces_that_the_store_takes(
    pair: tuple[Processes, Processes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "CHUNK", 100)
    first, second = pair
    before = first._store.num_keys()
    readings = {0: {"secret": ["a"]}, 2: {"names": [f"site{n}" for n in range(100)]}}
    (step,) = steps(0)
    ((own,),) = second.together([replace(step, readings=readings)], shared={2}, wait=True)
    assert own.readings == readings
    assert first._store.num_keys() > before + 3
    ((_, theirs),) = first.together(steps(0), shared={2}, wait=True)
    assert theirs.readings == {2: readings[2]}
    assert first._store.num_keys() == before


def test_one_that_hangs_is_waited_for_once(
    pair: tuple[Processes, Processes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "PATIENCE", 0.01)
    first, second = pair
    with pytest.warns(GradlabWarning, match="process 1 delivered nothing for"):
        assert losses(first.together(steps(0), shared=(), wait=True)) == {0: [0.0]}
    monkeypatch.setattr(processes, "PATIENCE", 1e9)
    assert losses(first.together(steps(1), shared=(), wait=True)) == {1: [0.0]}
    before = first._store.num_keys()
    second.together(steps(0, 1), shared=(), wait=True)  # nobody takes it any more
    assert first._store.num_keys() == before


def test_a_store_that_is_gone_stops_no_training(pair: tuple[Processes, Processes]) -> None:
    class Gone:
        def __getattr__(self, name: str) -> None:
            raise RuntimeError("connection reset")

    second = pair[1]
    second._store = Gone()  # type: ignore[assignment]
    assert losses(second.together(steps(0), shared=(), wait=True)) == {0: [0.0]}
    second.leave()


def test_the_first_goes_on_where_the_store_is_gone(pair: tuple[Processes, Processes]) -> None:
    class Gone:
        def __getattr__(self, name: str) -> None:
            raise RuntimeError("connection reset")

    first = pair[0]
    first._store = Gone()  # type: ignore[assignment]
    with pytest.warns(GradlabWarning, match="store that the processes share is gone"):
        assert losses(first.together(steps(0), shared=(), wait=True)) == {0: [0.0]}


def test_after_an_error_the_others_are_waited_for_less(
    pair: tuple[Processes, Processes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "PATIENCE", 1e9)
    monkeypatch.setattr(processes, "HASTE", 0.01)
    pair[0].hurry()
    with pytest.warns(GradlabWarning, match="delivered nothing for 0 s"):
        assert losses(pair[0].together(steps(0), shared=(), wait=True)) == {0: [0.0]}


@pytest.fixture
def attached(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, nn.Module], Processes]:
    """What `processes_of` gives to each of two processes."""
    store, world = dist.HashStore(), object()
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_process_group_ranks", lambda group: [0, 1])
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist.distributed_c10d, "_get_default_store", lambda: store)

    def attached(rank: int, model: nn.Module) -> Processes:
        monkeypatch.setattr(dist, "get_rank", lambda: rank)
        monkeypatch.setattr(dist, "get_world_size", lambda: 2)
        found = processes_of(model, world)  # type: ignore[arg-type]
        assert found is not None
        return found

    return attached


def test_attachments_meet_in_their_order(
    attached: Callable[[int, nn.Module], Processes],
) -> None:
    model = nn.Linear(2, 1)
    pairs = [[attached(rank, model) for _ in range(2)] for rank in (0, 1)]
    for loss, second in enumerate(pairs[1]):
        second.together(steps(0, loss=float(loss)), shared=(), wait=True)
    for loss, first in enumerate(pairs[0]):
        parts = first.together(steps(0, loss=9.0), shared=(), wait=True)
        assert losses(parts) == {0: [9.0, float(loss)]}


def test_another_model_that_the_first_alone_attached_to_gets_nobody_elses_steps(
    attached: Callable[[int, nn.Module], Processes],
) -> None:
    critic, model = nn.Sequential(nn.Linear(2, 1)), nn.Linear(2, 1)
    alone, first, second = attached(0, critic), attached(0, model), attached(1, model)
    second.together(steps(0, loss=1.0), shared=(), wait=True)
    with pytest.warns(GradlabWarning, match="no probes are attached to this model in process 1"):
        assert losses(alone.together(steps(0), shared=(), wait=True)) == {0: [0.0]}
    assert losses(first.together(steps(0), shared=(), wait=True)) == {0: [0.0, 1.0]}


def test_processes_without_a_store_are_recorded_as_one(
    attached: Callable[[int, nn.Module], Processes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """MPI gives none, and the `fake` backend one that does nothing."""
    monkeypatch.setattr(dist.distributed_c10d, "_get_default_store", dist.Store)
    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    with pytest.warns(GradlabWarning, match="share no store"):
        assert processes_of(nn.Linear(2, 1), object()) is None  # type: ignore[arg-type]


def test_an_attachment_that_fails_leaves_nobody_posting(
    attached: Callable[[int, nn.Module], Processes],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    model = nn.Linear(2, 1)
    second = attached(1, model)
    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    (tmp_path / "file").touch()
    with pytest.raises(GradlabError, match="file"):
        gradlab.attach(model, out=tmp_path / "file", group=object())  # type: ignore[arg-type]
    before = second._store.num_keys()
    second.together(steps(0), shared=(), wait=True)
    assert second._store.num_keys() == before


def test_a_nan_score_of_any_process_is_the_largest() -> None:
    """And of two rows of one head, as modules of several kinds have, the larger counts."""
    one = {"site": "aab", "head": [0, 0, 0], "bound": ["exact"] * 3}
    readings = [
        {**one, "max": [7.0, 2.0, 1.0], "max_abs": [7.0, 3.0, 1.0]},
        {**one, "max": [1.0, 1.0, math.nan], "max_abs": [1.0, 1.0, math.nan]},
    ]
    for order in (readings, readings[::-1]):
        joined = AttentionScores().joined(order)
        assert joined["site"] == ("a", "b")
        np.testing.assert_array_equal(joined["max"], [7.0, math.nan])
        np.testing.assert_array_equal(joined["max_abs"], [7.0, math.nan])


def test_an_exact_score_must_be_exact_for_all() -> None:
    """Process 1's scores were not computed: they count as exact where its bound is no larger."""

    def reading(**rows: tuple[float, float]) -> dict[str, list[object]]:
        labels = [(name.split("_")[0], None, name.split("_")[1]) for name in rows]
        numbers = list(rows.values())
        names = ("site", "head", "bound", "max", "max_abs")
        columns = [*zip(*labels, strict=True), *zip(*numbers, strict=True)]
        return dict(zip(names, map(list, columns), strict=True))

    one = reading(a_exact=(5.0, 6.0), a_upper=(9.0, 9.0), b_exact=(5.0, 6.0), b_upper=(9.0, 9.0))
    two = reading(a_upper=(4.5, 4.5), b_upper=(5.5, 5.5))
    joined = AttentionScores().joined([one, two])
    found = {
        (site, bound): (high, most)
        for site, bound, high, most in zip(
            *(joined[n] for n in ("site", "bound", "max", "max_abs")), strict=True
        )
    }
    assert found == {
        ("a", "exact"): (5.0, 6.0),
        ("a", "upper"): (9.0, 9.0),
        ("b", "upper"): (9.0, 9.0),
    }


def test_an_overflow_in_another_process_is_seen_as_in_another_micro_batch() -> None:
    shares = [torch.ones(3, 2).half(), torch.full((2, 2), 6e4).half()]
    store = dist.HashStore()
    ranks = [Processes(rank, [0, 1], store) for rank in (0, 1)]
    second = recorded(shares[1:], ranks[1])
    whole = recorded(shares, None)
    together = recorded(shares[:1], ranks[0])
    assert overflowed(second) == overflowed(whole) == overflowed(together) == {"1"}
    for table in ("headroom", "overflows"):
        found, expected = (rows(run, table, "forward") for run in (together, whole))
        pd.testing.assert_frame_equal(found, expected)


def recorded(batches: list[torch.Tensor], processes: Processes | None) -> list[RecordedStep]:
    """A step on some micro-batches."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).half()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    nn.init.constant_(model[0].weight, 0.5)
    nn.init.constant_(model[1].weight, 1.0)
    follower = LoopFollower(
        subject_of(model, (optimizer,)), [Headroom(count=1)], processes=processes
    )
    for batch in batches:
        model(batch).sum().backward()
    optimizer.step()
    taken = list(follower.collect())
    follower.close()
    return taken


def overflowed(steps: list[RecordedStep]) -> set[str]:
    return set(rows(steps, "overflows", "forward")["producer"])


def rows(steps: list[RecordedStep], table: str, direction: str) -> pd.DataFrame:
    (step,) = steps
    found = pd.DataFrame(dict(step.tables[0][table]))
    return found[found["direction"] == direction].reset_index(drop=True)
