"""A run's tokenizer as transformers' AutoTokenizer loads it: two JSON files, and no code."""

import json
from typing import Any

TOKENIZER_FILES = TOKENIZER_FILE, CONFIG_FILE = "tokenizer.json", "tokenizer_config.json"

NUL = 0
"""The byte that text does not hold: padding, and what begins and ends a text of bytes."""


def byte_tokenizer(max_seq_len: int) -> dict[str, bytes]:
    """A tokenizer whose ids are the text's UTF-8 bytes, and text's bytes its ids.

    It is a byte-level BPE without merges. NUL stands for padding, beginning and end: all 256 ids
    are bytes, and no other is free.

    Args:
        max_seq_len: Tokens of the model's longest sequence.

    Returns:
        File name → content.
    """
    names = byte_names()
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    tokenizer: dict[str, Any] = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {**level, "use_regex": False},
        "post_processor": None,
        "decoder": {**level, "use_regex": False},
        "model": {
            "type": "BPE",
            "vocab": {name: byte for byte, name in enumerate(names)},
            "merges": [],
        },
    }
    roles = ("pad_token", "bos_token", "eos_token")
    return {
        TOKENIZER_FILE: to_json(tokenizer),
        CONFIG_FILE: tokenizer_config(max_seq_len, dict.fromkeys(roles, names[NUL])),
    }


def tokenizer_config(max_seq_len: int, roles: dict[str, str]) -> bytes:
    """What transformers is told of a tokenizer.json, with the special tokens by their roles."""
    return to_json(
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": max_seq_len,
            "clean_up_tokenization_spaces": False,
            # A special token's name in a text is text.
            "split_special_tokens": True,
            **roles,
        }
    )


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
