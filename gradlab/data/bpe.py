"""A byte-level BPE trained on the text at hand (Sennrich et al., 2016; Radford et al., 2019)."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence

from gradlab.data.cache import cached_file
from gradlab.errors import GradlabError
from gradlab.extra import needs_extra

BPE = "bpe"
"""What `DataConfig.tokenizer` calls it."""

SPECIAL = ("<pad>", "<eos>", "<mask>")
"""The last ids of its vocabulary, which no text becomes; those before are bytes and merges."""

LEAST = 256 + 1 + len(SPECIAL)
"""The smallest vocabulary that learns something."""

_PIECE = 4096
"""Bytes of text that are taken at a time, to the end of a line."""

_RECIPE = "bpe 1"
"""Another one for another way to train, whose results are others' in the cache."""


def trained(name: str, documents: Sequence[bytes], vocab_size: int | None) -> bytes:
    """The `tokenizer.json` of a BPE trained on documents; from the cache if it was before.

    Newlines are by themselves, and a merge needs two occurrences.

    Args:
        name: Of the corpus.
        documents: UTF-8 texts.
        vocab_size: Its entries, bytes and special ones among them.

    Raises:
        GradlabError: The package is not installed, or text and vocabulary do not go together.
    """
    with needs_extra("tokenizers", f"the tokenizer {BPE!r}", "datasets"):
        import tokenizers
    if vocab_size is None or vocab_size < LEAST:
        raise GradlabError(
            f"tokenizer = {BPE!r} fills the model's vocabulary, which has to have {LEAST} ids at "
            "least: give vocab_size, as 4096."
        )
    digest = hashlib.sha256(f"{_RECIPE}\0{tokenizers.__version__}\0{vocab_size}\0".encode())
    for piece in pieces(documents):
        digest.update(piece + b"\n")
    return cached_file(f"bpe-{digest.hexdigest()}", lambda: _train(name, documents, vocab_size))


def _train(name: str, documents: Sequence[bytes], vocab_size: int) -> bytes:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    # Lines by themselves: a text's ids are those of its lines, wherever it is cut into pieces.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL),
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((piece.decode() for piece in pieces(documents)), trainer)
    tokenizer.add_special_tokens([*SPECIAL])
    found = tokenizer.get_vocab_size()
    if found < vocab_size:
        raise GradlabError(
            f"{name} is too short for a vocabulary of {vocab_size:,}: it has pairs of tokens that "
            f"repeat for {found:,}; give a smaller vocab_size, or a longer text."
        )
    content: str = tokenizer.to_str()
    return content.encode()


def pieces(documents: Iterable[bytes]) -> Iterator[bytes]:
    """The documents, cut at ends of lines: joined by newlines they are the same text."""
    for document in documents:
        start = 0
        while (end := document.find(b"\n", start + _PIECE)) >= 0:
            yield document[start:end]
            start = end + 1
        yield document[start:]


def cut(documents: Sequence[bytes], held_out: float) -> tuple[list[bytes], list[bytes]]:
    """Documents in two parts: of the text's bytes the share at its end that is held out.

    As bytes are cut that are tokens themselves (`gradlab.data.corpus`), but never in a character.
    """
    left = int((sum(map(len, documents)) + len(documents) - 1) * (1 - held_out))
    for number, document in enumerate(documents):
        if left <= len(document):
            while left < len(document) and document[left] & 0xC0 == 0x80:  # inside a character
                left += 1
            rest = documents[number + 1 :]
            return [*documents[:number], document[:left]], [document[left:], *rest]
        left -= len(document) + 1
    raise AssertionError("a share of the text lies in it")
