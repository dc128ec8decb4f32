"""The exported tokenizer of bytes, in transformers' AutoTokenizer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gradlab
from gradlab.exports.tokenizer_files import byte_names, byte_tokenizer

transformers = pytest.importorskip("transformers")

Keep = Callable[..., tuple[Path, Any]]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tokenizer")
    for name, content in byte_tokenizer(12).items():
        (folder / name).write_bytes(content)
    return transformers.AutoTokenizer.from_pretrained(folder)


@settings(max_examples=50)
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_ids_are_the_bytes_of_the_text(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text)["input_ids"]
    assert ids == [*text.encode()]
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


@pytest.mark.parametrize(
    "text", ["Ā", "<|endoftext|>", " a  b ,\r\n\n ", "\x00", "Ġ\u0100", "\ufeff"]
)
def test_nothing_in_a_text_is_special(tokenizer: Any, text: str) -> None:
    assert tokenizer(text)["input_ids"] == [*text.encode()]


def test_nul_is_padding_beginning_and_end(tokenizer: Any) -> None:
    ids = {tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}
    assert ids == {0}
    assert len(tokenizer) == 256
    assert tokenizer.model_max_length == 12
    batch = tokenizer(["ab", "c"], padding=True)
    assert batch["input_ids"] == [[97, 98], [99, 0]]
    assert batch["attention_mask"] == [[1, 1], [1, 0]]
    assert tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True) == ["ab", "c"]


def test_the_names_of_bytes_are_those_of_other_byte_level_tokenizers() -> None:
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    assert byte_names() == [bytes_to_unicode()[byte] for byte in range(256)]


def test_the_exported_folder_has_it(keep: Keep) -> None:
    folder = gradlab.export(keep()[0]).folder
    loaded = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    assert loaded("né")["input_ids"] == [110, 195, 169]
