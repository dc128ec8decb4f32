"""Tokenizers of the `tokenizers` package, for text and Hugging Face datasets."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from gradlab.data.cache import cached_tokens
from gradlab.data.masking import Masking
from gradlab.data.tokens import Tokens, id_type
from gradlab.errors import GradlabError
from gradlab.extra import needs_extra
from gradlab.paths import as_path

MASKS = ("<mask>", "[MASK]")
"""What a mask token is called: RoBERTa's, ours too, and BERT's."""


def load_tokenizer(name: str) -> Any:
    """A `tokenizers.Tokenizer` from a `tokenizer.json`, a folder that holds one, or the hub.

    Raises:
        GradlabError: The package is not installed, or there is no such tokenizer.
    """
    with needs_extra("tokenizers", f"the tokenizer {name!r}", "datasets"):
        from tokenizers import Tokenizer

    path = as_path(name)
    file = path / "tokenizer.json" if path.is_dir() else path
    local = path.exists() or path.suffix == ".json"
    if local and not file.is_file():
        raise GradlabError(f"there is no tokenizer file {file}: give a tokenizer.json.")
    try:
        tokenizer = Tokenizer.from_file(str(file)) if local else Tokenizer.from_pretrained(name)
    except Exception as error:  # the package raises bare Exception for every kind of problem
        raise GradlabError(
            f"the tokenizer {name!r} cannot be loaded ({_first_line(error)}): give a "
            "tokenizer.json, a folder that holds one, or a name on the Hugging Face hub."
        ) from error
    return _plain(tokenizer)


def tokenizer_of(content: bytes) -> Any:
    """The tokenizer that a `tokenizer.json` holds.

    Raises:
        GradlabError: The package is not installed, or this is none.
    """
    with needs_extra("tokenizers", "a tokenizer", "datasets"):
        from tokenizers import Tokenizer

    try:
        return _plain(Tokenizer.from_str(content.decode()))
    except Exception as error:
        raise GradlabError(f"this is no tokenizer.json: {_first_line(error)}.") from error


def _plain(tokenizer: Any) -> Any:
    """Without the cut and the padding of the model that it was made for."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def vocabulary(tokenizer: Any) -> int:
    """Largest id + 1: a vocabulary may have gaps, so this can exceed the number of entries."""
    return 1 + max(map(int, tokenizer.get_vocab().values()))


def masking(name: str, tokenizer: Any) -> Masking:
    """The mask token of a tokenizer, and its tokens that are not special.

    Raises:
        GradlabError: It has no mask token.
    """
    known = (tokenizer.token_to_id(token) for token in MASKS)
    mask_id = next((found for found in known if found is not None), None)
    if mask_id is None:
        raise GradlabError(
            f"the tokenizer {name!r} has no mask token ({' or '.join(MASKS)}), which a masked "
            "model needs: add one to it, or take another."
        )
    added = tokenizer.get_added_tokens_decoder()
    special = {number for number, token in added.items() if token.special} | {mask_id}
    ordinary = sorted(set(tokenizer.get_vocab().values()) - special)
    return Masking(mask_id, np.array(ordinary, dtype=np.int64))


def encode_cached(tokenizer: Any, documents: Sequence[bytes]) -> Tokens:
    """As `encode`; from the cache if the same was done before."""
    import tokenizers

    digest = hashlib.sha256(
        f"{tokenizers.__version__}\0{tokenizer.encode_special_tokens}\0".encode()
    )
    for content in (tokenizer.to_str().encode(), *documents):
        digest.update(b"%d\0" % len(content) + content)
    return cached_tokens(
        f"ids-{digest.hexdigest()}",
        lambda: encode(tokenizer, documents),
        vocabulary=vocabulary(tokenizer),
    )


def encode(tokenizer: Any, documents: Sequence[bytes]) -> Tokens:
    """The ids of documents joined by newlines, without the tokenizer's special tokens.

    Each document is encoded by itself, together with the newline after it, so that their number
    bounds the memory that encoding takes. uint16 where the vocabulary allows it, else uint32.
    """
    dtype = id_type(vocabulary(tokenizer))
    last = len(documents) - 1
    pieces: list[Tokens] = [np.zeros(0, dtype)]
    for start in range(0, len(documents), 1024):
        texts = [
            document.decode("utf-8") + ("\n" if start + i < last else "")
            for i, document in enumerate(documents[start : start + 1024])
        ]
        encodings = tokenizer.encode_batch(texts, add_special_tokens=False)
        pieces.extend(np.array(encoding.ids, dtype=dtype) for encoding in encodings)
    return np.concatenate(pieces)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")
