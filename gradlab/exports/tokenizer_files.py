"""A run's tokenizer as transformers' AutoTokenizer loads it: two JSON files, and no code."""

import json
from dataclasses import dataclass
from typing import Any

from gradlab.data.bpe import BPE
from gradlab.data.token_files import is_token_corpus
from gradlab.runs.reader import Run
from gradlab.runs.tokenizer_file import TOKENIZER_FILE, kept_tokenizer

CONFIG_FILE = "tokenizer_config.json"

NUL = 0
"""The byte that text does not hold: padding, and what begins and ends a text of bytes."""

MASK = "<mask>"

ROLES = {
    "pad_token": ("<pad>", "[PAD]", "<|padding|>", "<|pad|>"),
    "eos_token": ("<eos>", "</s>", "<|endoftext|>", "<|end_of_text|>"),
    "bos_token": ("<bos>", "<s>", "<|begin_of_text|>"),
    "mask_token": (MASK, "[MASK]"),
    "unk_token": ("<unk>", "[UNK]"),
}
"""Role → what such a token is called: a tokenizer.json has its special tokens, not their roles."""


@dataclass(frozen=True)
class TokenizerFiles:
    """What is written of a tokenizer.

    Attributes:
        files: File name → content.
        ids: `pad_token_id` and so on, for the model's own files.
    """

    files: dict[str, bytes]
    ids: dict[str, int]


def tokenizer_of(run: Run) -> TokenizerFiles | None:
    """The tokenizer that made a run's tokens; None if there is none, as of token files.

    Raises:
        GradlabError: The one in the run's folder is not the one that the run was begun with.
    """
    data, longest = run.config.data, run.config.model.max_seq_len
    content = kept_tokenizer(run)
    if content is not None:
        # In a text, names of special tokens are text, as they were in training.
        return of_file(content, longest, splits=data.tokenizer == BPE)
    if data.tokenizer is not None or is_token_corpus(data.corpus):
        return None
    return of_bytes(longest, (run.info.get("corpus") or {}).get("mask_id"))


def of_bytes(longest: int, mask_id: int | None = None) -> TokenizerFiles:
    """A tokenizer whose ids are the text's UTF-8 bytes: a byte-level BPE without merges.

    NUL stands for padding, beginning and end: all 256 ids are bytes, and no other is free.

    Args:
        longest: Tokens of the model's longest sequence.
        mask_id: Of a masked model.
    """
    names = byte_names()
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    vocabulary = {name: byte for byte, name in enumerate(names)}
    special = {"pad_token": names[NUL], "bos_token": names[NUL], "eos_token": names[NUL]}
    if mask_id is not None:
        vocabulary[MASK] = mask_id
        special["mask_token"] = MASK
    tokenizer: dict[str, Any] = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {**level, "use_regex": False},
        "post_processor": None,
        "decoder": {**level, "use_regex": False},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
    }
    return _files(tokenizer, vocabulary, special, longest, splits=True)


def of_file(content: bytes, longest: int, *, splits: bool) -> TokenizerFiles:
    """A run's `tokenizer.json`, but as the run took it: nothing added to a text, nothing cut.

    Args:
        content: The file.
        longest: Tokens of the model's longest sequence.
        splits: Whether a special token's name in a text is text.
    """
    tokenizer = json.loads(content)
    tokenizer |= {"post_processor": None, "truncation": None, "padding": None}
    ids = {token["content"]: token["id"] for token in tokenizer.get("added_tokens", [])}
    special = {
        role: name
        for role, names in ROLES.items()
        if (name := next((name for name in names if name in ids), None)) is not None
    }
    if (end := special.get("eos_token")) is not None:
        special = {"bos_token": end, "pad_token": end, **special}
    return _files(tokenizer, ids, special, longest, splits=splits)


def _files(
    tokenizer: dict[str, Any],
    ids: dict[str, int],
    special: dict[str, str],
    longest: int,
    *,
    splits: bool,
) -> TokenizerFiles:
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": longest,
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": splits,
        **special,
    }
    return TokenizerFiles(
        {TOKENIZER_FILE: to_json(tokenizer), CONFIG_FILE: to_json(config)},
        {f"{role}_id": ids[name] for role, name in special.items() if role in _OF_MODELS},
    )


_OF_MODELS = ("pad_token", "bos_token", "eos_token")


def byte_names() -> list[str]:
    """What byte-level BPE calls each byte: itself where it is printed, else the next free letter.

    GPT-2's table (Radford et al., 2019): letters from U+0100 on stand for the others, in order.
    """
    printed = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printed else next(others)) for byte in range(256)]


def to_json(content: dict[str, Any]) -> bytes:
    """As files of these libraries look."""
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
