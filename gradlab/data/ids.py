"""A corpus's text as token ids, and the tokenizer that made them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gradlab.config import DataConfig
from gradlab.data.bpe import BPE, cut, pieces, trained
from gradlab.data.hub import PREFIX, load_documents
from gradlab.data.stdlib import STDLIB, stdlib_documents
from gradlab.data.text import byte_tokens, text_documents
from gradlab.data.token_files import is_token_corpus, load_token_files
from gradlab.data.tokenizer import encode_cached, load_tokenizer, tokenizer_of
from gradlab.data.tokens import Tokens
from gradlab.errors import GradlabError
from gradlab.paths import as_path


@dataclass(frozen=True)
class Ids:
    """A corpus as ids.

    Attributes:
        parts: All of it, or a training and a validation part.
        tokenizer: A `tokenizers.Tokenizer`; None of bytes and token files.
        content: Its `tokenizer.json`.
    """

    parts: Sequence[Tokens]
    tokenizer: Any = None
    content: bytes | None = None


def read_ids(config: DataConfig, vocab_size: int | None, kept: bytes | None) -> Ids:
    """The ids of the corpus that a config names.

    Args:
        config: Which corpus, and which tokenizer.
        vocab_size: What a BPE is trained to.
        kept: A `tokenizer.json` that is taken instead of what the config names.

    Raises:
        GradlabError: As of `gradlab.data.corpus.load_corpus`.
    """
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
        return Ids(load_token_files(as_path(name)))
    else:
        parts = [text_documents(name)]
    if config.tokenizer is None:
        return Ids([byte_tokens(documents) for documents in parts])
    if config.tokenizer != BPE:
        content = kept or load_tokenizer(config.tokenizer).to_str().encode()
        tokenizer = tokenizer_of(content)
    else:
        # What is held out is cut off before: nothing is learned from it.
        parts = parts if len(parts) > 1 else [*cut(parts[0], config.held_out)]
        content = kept or trained(name, parts[0], vocab_size)
        tokenizer = tokenizer_of(content)
        tokenizer.encode_special_tokens = True  # "<mask>" in a text is text
        parts = [[*pieces(documents)] for documents in parts]
    return Ids([encode_cached(tokenizer, documents) for documents in parts], tokenizer, content)
