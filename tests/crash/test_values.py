"""What a model was given, into JSON and tensors and back: the same values, laid out the same."""

import json
import math
import sys
from collections import OrderedDict
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from gradlab.crash.values import Decoder, Encoder, NotKeptError
from gradlab.errors import GradlabError


def there_and_back(value: Any) -> Any:
    encoder = Encoder()
    told = json.loads(json.dumps(encoder.encode(value, "x", "the argument x")))
    return Decoder(encoder.tensors, torch.device).decode(told)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b) and (a.dtype, a.stride(), a.requires_grad) == (
            b.dtype,
            b.stride(),
            b.requires_grad,
        )
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b) or (a != a and b != b)


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        3,
        "text",
        -0.0,
        math.inf,
        math.nan,
        [1, (2, None), {"a": [3.5]}],
        {1: "by number", ("a", 2): "by a tuple"},
        {"tensor": 1, "list": 2},  # names that JSON of ours has as well
        torch.Size([2, 3]),
        torch.float16,
        torch.device("cpu"),
        torch.arange(6).reshape(2, 3),
        torch.randn(2, 3, requires_grad=True),
        torch.randn(2, 3).half(),
        torch.randn(3, dtype=torch.bfloat16),
        torch.randn(3, dtype=torch.complex64),
        torch.tensor([True, False]),
        torch.randn(3, 4).t(),
        torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        torch.ones(1).expand(3, 4),
        torch.randn(3, 1, 2).expand(3, 5, 2),
        torch.empty(0, 3),
        torch.tensor(2.0),
        {"past": [(torch.ones(2), torch.zeros(2))], "use_cache": False},
    ],
)
def test_a_value_comes_back(value: Any) -> None:
    assert same(value, there_and_back(value))


def test_an_expanded_tensor_takes_the_place_of_what_is_in_memory() -> None:
    encoder = Encoder()
    encoder.encode(torch.ones(1).expand(10**9), "x", "x")
    assert encoder.tensors["x"].numel() == 1


def test_the_same_tensor_twice_is_one() -> None:
    x = torch.ones(2)
    a, b = there_and_back([x, {"again": x}])
    assert a is b["again"]


def test_what_is_kept_does_not_change_with_the_original() -> None:
    encoder, x = Encoder(), torch.ones(2)
    encoder.encode(x, "x", "x")
    x.zero_()
    assert encoder.tensors["x"].tolist() == [1.0, 1.0]


class Named(NamedTuple):
    x: int


class Own(Tensor):
    pass


@pytest.mark.parametrize(
    "value",
    [
        object(),
        lambda: None,
        Named(1),
        OrderedDict(a=1),
        {1, 2},
        b"bytes",
        torch.ones(2).to_sparse(),
        torch.ones(2).as_subclass(Own),
        torch.ones(2, device="meta"),
        torch.nested.nested_tensor([torch.ones(2)], layout=torch.jagged),
        torch.nn.Linear(1, 1),
        [1, {"a": (object(),)}],
    ],
    ids=lambda value: type(value).__name__,
)
def test_others_are_refused_by_name(value: Any) -> None:
    with pytest.raises(NotKeptError, match="the argument x holds a"):
        there_and_back(value)


def test_hugging_face_outputs_come_back_as_what_they_were() -> None:
    outputs = pytest.importorskip("transformers.modeling_outputs")
    value = outputs.BaseModelOutput(last_hidden_state=torch.ones(2), hidden_states=(torch.ones(1),))
    back = there_and_back([value])[0]
    assert type(back) is type(value)
    assert same(dict(value), dict(back))


@pytest.mark.parametrize("name", ["subprocess:Popen", "builtins:dict", "not.imported:Output"])
def test_no_other_class_is_made_by_its_name(name: str) -> None:
    imported = set(sys.modules)
    with pytest.raises(GradlabError, match="Hugging Face's outputs"):
        Decoder({}, torch.device).decode({"output": [name]})
    assert set(sys.modules) == imported
