"""The exported tokenizer of bytes, in transformers' AutoTokenizer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gradlab
from gradlab.data.corpus import load_corpus
from gradlab.exports.tokenizer_files import byte_names, of_bytes, of_file

transformers = pytest.importorskip("transformers")

Keep = Callable[..., tuple[Path, Any]]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tokenizer")
    for name, content in of_bytes(12).files.items():
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


@pytest.mark.parametrize("vocab_size", [257, 300])
def test_a_masked_model_of_bytes_has_its_mask(keep: Keep, vocab_size: int) -> None:
    folder = gradlab.export(keep(objective="masked", vocab_size=vocab_size)[0]).folder
    loaded = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    assert loaded.mask_token_id == vocab_size - 1
    assert loaded("a <mask>")["input_ids"] == [*b"a <mask>"]  # in a text it is text
    assert loaded("\u0100")["input_ids"] == [196, 128]
    by_name = transformers.AutoTokenizer.from_pretrained(
        folder, trust_remote_code=True, split_special_tokens=False
    )
    assert by_name("a <mask>!")["input_ids"] == [97, 32, vocab_size - 1, 33]


def test_a_bpe_of_the_run_makes_the_ids_of_its_training(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("a rosé is a rosé\n\nis a <mask> or an <eos>, 12 times\n" * 30)
    run = gradlab.train(
        "normformer",
        **{"width": 16, "n_layers": 1, "max_seq_len": 8, "batch_size": 2, "steps": 1},
        **{"corpus": str(text), "tokenizer": "bpe", "vocab_size": 280, "objective": "masked"},
        **{"device": "cpu", "precision": "fp32", "keep_weights": True, "out": tmp_path / "run"},
    )
    made = gradlab.export(run)
    loaded = transformers.AutoTokenizer.from_pretrained(made.folder, trust_remote_code=True)
    corpus = load_corpus(run.config.data, seq_len=8, vocab_size=280, objective="masked")
    ids = [*corpus.train.tolist(), *corpus.val.tolist()]
    assert loaded.decode(ids) == text.read_text()
    whole = loaded(text.read_text())["input_ids"]
    cut = len(corpus.train) - 8  # the text was cut into two parts, perhaps inside a line
    assert whole[:cut] == ids[:cut]
    special = (loaded.pad_token_id, loaded.eos_token_id, loaded.bos_token_id, loaded.mask_token_id)
    assert special == (277, 278, 278, 279)
    assert loaded.model_max_length == 8
    model = transformers.AutoModelForMaskedLM.from_pretrained(made.folder, trust_remote_code=True)
    assert model.config.pad_token_id == 277
    tokens = torch.tensor([ids[:8]])
    torch.testing.assert_close(model(tokens).logits, gradlab.load_model(run)(tokens))


def test_a_tokenizer_of_ones_own_is_taken_as_the_run_took_it(tmp_path: Path) -> None:
    """Without what it would add to a text or cut of it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    own = Tokenizer(models.WordLevel({"[UNK]": 0, "rose": 1, "is": 2, "[CLS]": 3}, "[UNK]"))
    own.pre_tokenizer = pre_tokenizers.Whitespace()
    own.add_special_tokens(["[UNK]", "[CLS]", "[MASK]"])
    own.post_processor = processors.TemplateProcessing("[CLS] $A", special_tokens=[("[CLS]", 3)])
    own.enable_truncation(2)
    own.enable_padding(length=9)
    assert len(own.encode("rose is rose").ids) == 9
    made = of_file(own.to_str().encode(), 12, splits=False)
    for name, content in made.files.items():
        (tmp_path / name).write_bytes(content)
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert loaded("rose is rose [MASK] it")["input_ids"] == [1, 2, 1, 4, 0]
    assert (loaded.mask_token_id, loaded.unk_token_id) == (4, 0)
    assert made.ids == {}
