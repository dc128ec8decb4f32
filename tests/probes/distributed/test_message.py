"""Steps sent from process to process: the same on arrival, and nothing else gets in."""

import json
import math
import pickle
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from gradlab.errors import GradlabWarning
from gradlab.probes import Headroom
from gradlab.probes.distributed.message import from_bytes, to_bytes
from gradlab.probes.distributed.processes import Processes
from gradlab.probes.engine.window import HostStep, recorded
from gradlab.probes.sites import Place

PLACE = Place("a.b", "backward", torch.float16, masks=True)
STEP = HostStep(
    3,
    True,
    None,
    0.1 + 0.2,
    2.0**-14,
    False,
    (math.inf, -math.inf, 1e-300),
    {0: {"places": [PLACE], "low": [5e-324, -0.0], "site": ["é\x00"], "layer": [None, 1]}, 2: {}},
    rank=1,
)


def test_steps_arrive_as_they_were() -> None:
    (found,) = from_bytes(to_bytes([STEP]), rank=1)
    assert found == STEP
    assert math.copysign(1, found.readings[0]["low"][1]) == -1


def test_a_nan_arrives() -> None:
    (found,) = from_bytes(
        to_bytes([HostStep(0, True, 1e-3, 1.0, 1.0, True, (math.nan,), {})]), rank=1
    )
    assert math.isnan(found.losses[0])


def test_labels_of_other_kinds_are_refused_where_they_are_sent() -> None:
    with pytest.raises(TypeError, match="object"):
        to_bytes([HostStep(0, True, None, 0.0, 1.0, False, (), {0: {"x": [object()]}})])


def good() -> dict[str, Any]:
    row: dict[str, Any] = json.loads(to_bytes([STEP]))[0]
    return row


WRONG: list[Any] = [
    b"",
    b"\x80\x04.",
    b"\xff\xfe",
    pickle.dumps([STEP]),
    b"[" * 100_000,
    b"null",
    b"3",
    b"[]",
    b"[null]",
    b"{}",
    b'[{"!dtype": "float16"}]',
    b'[{"!dtype": "load"}]',
    b'[{"!dtype": 3}]',
    b'[{"!place": 3}]',
    b'[{"!place": []}]',
    b'[{"!place": [[], {}, 1]}]',
    [good(), good()],
    [{**good(), "step": "0"}],
    [{**good(), "step": None}],
    [{**good(), "more": 1}],
    [{name: value for name, value in good().items() if name != "lr"}],
    [{**good(), "losses": ["x"]}],
    [{**good(), "losses": 1}],
    [{**good(), "readings": []}],
    [{**good(), "readings": {"x": {}}}],
    [{**good(), "readings": {"0": []}}],
    [{**good(), "readings": {"0": {"a": 3}}}],
    [{**good(), "readings": {"0": {"a": [[1]]}}}],
]


@pytest.mark.parametrize("given", WRONG, ids=range(len(WRONG)))
def test_anything_else_is_refused(given: Any) -> None:
    data = given if isinstance(given, bytes) else json.dumps(given).encode()
    with pytest.raises(ValueError):
        from_bytes(data, rank=1)


def test_damage_anywhere_is_noticed() -> None:
    """Each bit flipped in turn: the step as it was, or a warning and the first one's part."""
    numbers = np.random.default_rng(0)
    for _ in range(100):
        store = dist.HashStore()
        first, second = Processes(0, [0, 1], store), Processes(1, [0, 1], store)
        second.together([STEP], shared={0}, wait=True)
        key = numbers.choice(["1/0", "1/0/0"])
        value = bytearray(store.get(key))
        value[numbers.integers(len(value))] ^= 1 << int(numbers.integers(8))
        store.set(key, bytes(value))  # type: ignore[arg-type]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", GradlabWarning)
            ((own, *theirs),) = first.together([STEP], shared={0}, wait=True)
        assert own == STEP
        assert not theirs or theirs[0].readings == {0: STEP.readings[0]}


@pytest.mark.parametrize("count", [b"99999999999 0", b"2 0", b"-1 5", b"x", b"", b"1"])
def test_no_chunk_is_waited_for(count: bytes) -> None:
    store = dist.HashStore()
    first = Processes(0, [0, 1], store)
    store.set("here/1", "")
    store.set("1/0", count)  # type: ignore[arg-type]
    with pytest.warns(GradlabWarning, match="damaged"):
        assert first.together([STEP], shared={0}, wait=True) == [[STEP]]


def test_code_in_the_store_does_not_run() -> None:
    """As whoever reaches the store's port can put it there, with its right checksum."""
    data = b"csys\nexit\n(tR."  # a pickle that ends the process
    with pytest.raises(SystemExit):
        pickle.loads(data)
    store = dist.HashStore()
    first = Processes(0, [0, 1], store)
    store.set("here/1", "")
    store.set("1/0", f"1 {zlib.crc32(data)}")
    store.set("1/0/0", data)  # type: ignore[arg-type]
    with pytest.warns(GradlabWarning, match="damaged"):
        assert first.together([STEP], shared={0}, wait=True) == [[STEP]]


def test_readings_that_do_not_fit_together_leave_the_first_ones() -> None:
    labels = {"places": [PLACE], "order": [0], "rows": [0], "entries": [4], "ranks": [0]}
    empty = ("bounded", "counted", "caused", "causes", "ends", "zeroed", "operation", "inside")
    labels |= {name: [] for name in empty}
    own = HostStep(
        0,
        True,
        None,
        0.0,
        1.0,
        False,
        (),
        {0: {**labels, "sampled": [True], "low": [0], "high": [1]}},
    )
    for odd in ({"x": [1]}, {**own.readings[0], "order": [9]}, {**own.readings[0], "rows": ["a"]}):
        theirs = HostStep(0, True, None, 0.0, 1.0, False, (), {0: odd}, rank=1)
        with pytest.warns(GradlabWarning, match="cannot be put together"):
            found = recorded([own, theirs], [Headroom()])
        assert found.tables == recorded([own], [Headroom()]).tables
