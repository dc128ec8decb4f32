"""lm-evaluation-harness on an exported model and a file of text: its numbers are gradlab's own."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import gradlab

lm_eval = pytest.importorskip("lm_eval")

# The harness and what it imports warn of their own affairs.
pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore"),
]

Keep = Callable[..., tuple[Path, Any]]

TEXTS = ["a rose is a rose is a rose", "short", "né, und so fort: longer than twelve", "\n"]

TASK = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
  cache_dir: {cache}
test_split: test
{rest}
"""

PERPLEXITY = """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list:
  - metric: bits_per_byte
"""

CHOICE = """
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: ["red", "blue or so", "x"]
doc_to_target: 1
target_delimiter: " "
metric_list:
  - metric: acc
"""


def evaluate(
    folder: Path, tmp_path: Path, rest: str, rows: list[dict[str, str]], more: str = ""
) -> Any:
    """What the harness says of a task over a file with these rows."""
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "tasks").mkdir()
    task = TASK.format(name="local", file=file, cache=tmp_path / "cache", rest=rest)
    (tmp_path / "tasks/local.yaml").write_text(task)
    return lm_eval.simple_evaluate(
        model="hf",
        model_args=f"pretrained={folder},trust_remote_code=True,dtype=float32{more}",
        tasks=["local"],
        task_manager=lm_eval.tasks.TaskManager(
            include_path=str(tmp_path / "tasks"), include_defaults=False
        ),
        device="cpu",
        batch_size=3,
        log_samples=True,
        bootstrap_iters=0,
    )


def log_likelihood(model: Any, context: list[int], following: list[int]) -> float:
    """Of tokens after others, each with as many before it as the model takes."""
    total = 0.0
    tokens = [*context, *following]
    for at in range(len(context), len(tokens)):
        seen = torch.tensor([tokens[max(0, at - model.config.max_seq_len) : at]])
        total += model(seen)[0, -1].double().log_softmax(-1)[tokens[at]].item()
    return total


def rolling(model: Any, text: bytes, first: int) -> float:
    """In windows one behind the other, each beginning with the last token of the one before.

    The last is as long as the others, and only what is new in it counts.
    """
    tokens, longest = [first, *text], model.config.max_seq_len
    total = 0.0
    for start in range(0, len(text), longest):
        end = min(start + longest, len(text))
        begin = start if start == 0 or end - start == longest else end - longest
        logits = model(torch.tensor([tokens[begin:end]]))[0].double().log_softmax(-1)
        new = range(start - begin, end - begin)
        total += sum(logits[i, tokens[begin + i + 1]].item() for i in new)
    return total


@pytest.mark.parametrize(("more", "first"), [("", 0), (",prefix_token_id=10", 10)])
def test_perplexity_of_a_text_is_gradlabs(
    keep: Keep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: str, first: int
) -> None:
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    run, own = keep()
    folder = gradlab.export(run).folder
    rows = [{"text": text} for text in TEXTS]
    found = evaluate(folder, tmp_path, PERPLEXITY, rows, more)
    by_hand = [rolling(own, text.encode(), first) for text in TEXTS]
    said = [sample["resps"][0][0] for sample in found["samples"]["local"]]
    assert said == pytest.approx(by_hand, rel=1e-5)
    size = sum(len(text.encode()) for text in TEXTS)
    bits = found["results"]["local"]["bits_per_byte,none"]
    assert bits == pytest.approx(-sum(by_hand) / size / math.log(2), rel=1e-5)


def test_choices_between_answers_are_gradlabs(
    keep: Keep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    run, own = keep("pre-ln", attention="sdpa", max_seq_len=40)
    folder = gradlab.export(run).folder
    questions = ["a rose is", "which colour?", "and a much longer question:"]
    found = evaluate(folder, tmp_path, CHOICE, [{"question": q} for q in questions])
    hits = 0
    for question, sample in zip(questions, found["samples"]["local"], strict=True):
        by_hand = [
            log_likelihood(own, [*question.encode()], [*f" {choice}".encode()])
            for choice in ("red", "blue or so", "x")
        ]
        said = [resp[0][0] for resp in sample["resps"]]
        assert said == pytest.approx(by_hand, rel=1e-5)
        hits += by_hand[1] == max(by_hand)
    assert found["results"]["local"]["acc,none"] == pytest.approx(hits / len(questions))
