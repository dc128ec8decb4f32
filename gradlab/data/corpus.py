"""A corpus: one stream of token ids, cut into a training and a validation part.

Sources, by what `DataConfig.corpus` says:

- `python-stdlib`: the standard library of the running Python as bytes (`gradlab.data.stdlib`).
- `hf:NAME` or `hf:NAME:CONFIG`: a Hugging Face dataset (`gradlab.data.hub`).
- a file that ends in `.bin`, or a folder with `train.bin` and `val.bin`: uint16 token files as
  nanoGPT prepares them (`gradlab.data.token_files`).
- any other file or folder: UTF-8 text (`gradlab.data.text`).

Text becomes its UTF-8 bytes (vocabulary 256), or the ids of `DataConfig.tokenizer`.
"""

import hashlib
from dataclasses import dataclass

import numpy as np

from gradlab.config import DataConfig
from gradlab.data.hub import PREFIX, load_documents
from gradlab.data.stdlib import STDLIB, stdlib_documents
from gradlab.data.text import byte_tokens, text_documents
from gradlab.data.token_files import is_token_corpus, load_token_files
from gradlab.data.tokenizer import encode, load_tokenizer, vocabulary
from gradlab.data.tokens import Tokens, chunks
from gradlab.errors import GradlabError
from gradlab.paths import as_path


@dataclass(frozen=True)
class Corpus:
    """A tokenised corpus.

    Attributes:
        name: As in `DataConfig.corpus`.
        sha256: Of the training ids followed by the validation ids, as little-endian integers of
            the arrays' type. For text as bytes this is the text's own SHA-256, and it does not
            depend on the share that is held out.
        vocab_size: Every id is below it: 256 for bytes, else the tokenizer's size, else the
            largest id + 1.
        train: Ids to train on, shape (tokens,).
        val: Ids held out, shape (tokens,).
    """

    name: str
    sha256: str
    vocab_size: int
    train: Tokens
    val: Tokens


def load_corpus(config: DataConfig, *, seq_len: int, vocab_size: int | None = None) -> Corpus:
    """Read, tokenise, split and check the corpus that a config names.

    Args:
        config: Which corpus, which tokenizer, what share is held out.
        seq_len: Tokens of one sequence; each part must hold one, and the token after it.
        vocab_size: The model's vocabulary: an id past it is an error. None accepts any id.

    Raises:
        GradlabError: The source is missing, empty, too short, not UTF-8, of odd length, holds an
            id past the vocabulary, or needs a package that is not installed.
    """
    name = config.corpus
    try:
        parts, natural = _parts(config)
    except OSError as error:
        raise GradlabError(f"the corpus {name} cannot be read: {error.strerror}.") from error
    if len(parts) == 2:
        train, val = parts
    else:
        cut = int(parts[0].size * (1 - config.held_out))
        train, val = parts[0][:cut], parts[0][cut:]
    _check_length(name, "training", train, seq_len)
    _check_length(name, "validation", val, seq_len)
    sha256, largest = _survey(name, (train, val), vocab_size)
    return Corpus(name, sha256, natural or largest + 1, train, val)


def _parts(config: DataConfig) -> tuple[tuple[Tokens, ...], int | None]:
    """The ids in one part, or in a training and a validation part; the vocabulary if known."""
    name = config.corpus
    if name == STDLIB:
        parts = [stdlib_documents()]
    elif name.startswith(PREFIX):
        parts = load_documents(name)
    elif is_token_corpus(name):
        if config.tokenizer is not None:
            raise GradlabError(
                f"{name} holds token ids already: leave out the tokenizer {config.tokenizer!r}."
            )
        return load_token_files(as_path(name)), None
    else:
        parts = [text_documents(name)]
    if config.tokenizer is None:
        return tuple(byte_tokens(documents) for documents in parts), 256
    tokenizer = load_tokenizer(config.tokenizer)
    return tuple(encode(tokenizer, documents) for documents in parts), vocabulary(tokenizer)


def _check_length(name: str, part: str, tokens: Tokens, seq_len: int) -> None:
    """Each part must hold at least one sequence and the target of its last token."""
    if tokens.size <= seq_len:
        raise GradlabError(
            f"the {part} part of {name} has {tokens.size:,} tokens, fewer than the "
            f"{seq_len + 1:,} of one sequence and its next token: use a longer text, "
            "another held_out share, or a shorter max_seq_len."
        )


def _survey(name: str, parts: tuple[Tokens, ...], vocab_size: int | None) -> tuple[str, int]:
    """SHA-256 and largest id of all parts, in one pass over them."""
    digest = hashlib.sha256()
    largest = 0
    position = 0
    for tokens in parts:
        for chunk in chunks(tokens):
            digest.update(chunk.astype(chunk.dtype.newbyteorder("<"), copy=False).data)
            here = int(chunk.max())
            if vocab_size is not None and here >= vocab_size:
                first = position + int(np.argmax(chunk >= vocab_size))
                raise GradlabError(
                    f"{name} has the token id {int(chunk[first - position])} at position "
                    f"{first:,}, past the vocabulary of {vocab_size:,}: give the "
                    "model the vocab_size of the corpus's tokenizer (256 for bytes)."
                )
            largest = max(largest, here)
            position += chunk.size
    return digest.hexdigest(), largest
