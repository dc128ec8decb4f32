"""A corpus: one stream of token ids, cut into a training and a validation part.

Sources, by what `DataConfig.corpus` says:

- `python-stdlib`: the standard library of the running Python as bytes (`gradlab.data.stdlib`).
- `hf:NAME` or `hf:NAME:CONFIG`: a Hugging Face dataset (`gradlab.data.hub`).
- a file that ends in `.bin`, or a folder with `train.bin` and `val.bin`: uint16 token files as
  nanoGPT prepares them (`gradlab.data.token_files`).
- any other file or folder: UTF-8 text (`gradlab.data.text`).

Text becomes its UTF-8 bytes (vocabulary 256), the ids of a BPE trained on it
(`gradlab.data.bpe`), or those of another tokenizer, by what `DataConfig.tokenizer` says.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradlab.config import DataConfig, RunConfig
from gradlab.data.ids import read_ids
from gradlab.data.masking import Masking
from gradlab.data.tokenizer import masking, vocabulary
from gradlab.data.tokens import Tokens, chunks
from gradlab.errors import GradlabError
from gradlab.models.config import Objective


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
        masking: What a masked model's inputs have in the place of tokens; None for a causal one.
        tokenizer: The `tokenizer.json` that made the ids; None for bytes and token files.
    """

    name: str
    sha256: str
    vocab_size: int
    train: Tokens
    val: Tokens
    masking: Masking | None = None
    tokenizer: bytes | None = None

    def facts(self) -> dict[str, Any]:
        """What `run.json` says of it: `name`, `sha256`, and what else there is of these two.

        `mask_id`, the id of a masked model's mask token; `tokenizer_sha256`, of the
        `tokenizer.json` beside it.
        """
        facts: dict[str, Any] = {"name": self.name, "sha256": self.sha256}
        if self.masking is not None:
            facts["mask_id"] = self.masking.mask_id
        if self.tokenizer is not None:
            facts["tokenizer_sha256"] = hashlib.sha256(self.tokenizer).hexdigest()
        return facts


def corpora_of(configs: Sequence[RunConfig], tokenizer: bytes | None = None) -> list[Corpus]:
    """The text of each run, read once where it is the same to several.

    Args:
        configs: The runs.
        tokenizer: As of `load_corpus`.

    Raises:
        GradlabError: As of `load_corpus`.
    """
    longest: dict[Any, int] = {}
    for config in configs:
        longest[_text(config)] = max(config.model.max_seq_len, longest.get(_text(config), 0))
    read = {
        (data, vocab_size, objective): load_corpus(
            data,
            seq_len=seq_len,
            vocab_size=vocab_size,
            objective=objective,
            tokenizer=tokenizer,
        )
        for (data, vocab_size, objective), seq_len in longest.items()
    }
    return [read[_text(config)] for config in configs]


def _text(config: RunConfig) -> tuple[DataConfig, int, Objective]:
    """What a run's ids depend on."""
    return config.data, config.model.vocab_size, config.model.objective


def load_corpus(
    config: DataConfig,
    *,
    seq_len: int,
    vocab_size: int | None = None,
    objective: Objective = "causal",
    tokenizer: bytes | None = None,
) -> Corpus:
    """Read, tokenise, split and check the corpus that a config names.

    Args:
        config: Which corpus, which tokenizer, what share is held out.
        seq_len: Tokens of one sequence; each part must hold one, and the token after it.
        vocab_size: The model's vocabulary: an id past it is an error. None accepts any id.
        objective: Of a masked model, the last id of the vocabulary is the mask's unless a
            tokenizer has its own.
        tokenizer: A run's `tokenizer.json`, which is taken for the one that the config names.

    Raises:
        GradlabError: The source is missing, empty, too short, not UTF-8, of odd length, holds an
            id past the vocabulary, or needs a package that is not installed; there is no mask.
    """
    name = config.corpus
    try:
        ids = read_ids(config, vocab_size, tokenizer)
    except OSError as error:
        raise GradlabError(f"the corpus {name} cannot be read: {error.strerror}.") from error
    if len(ids.parts) == 2:
        train, val = ids.parts
    else:
        (whole,) = ids.parts
        cut = int(whole.size * (1 - config.held_out))
        train, val = whole[:cut], whole[cut:]
    _check_length(name, "training", train, seq_len)
    _check_length(name, "validation", val, seq_len)
    masked = objective == "masked"
    if ids.tokenizer is not None:
        natural = vocabulary(ids.tokenizer)
        how = masking(str(config.tokenizer), ids.tokenizer) if masked else None
        if how is not None:
            _check_room(config, natural, vocab_size)
        sha256, _ = _survey(name, (train, val), vocab_size)
    else:
        mask_id = vocab_size - 1 if masked and vocab_size is not None else None
        limit = mask_id if masked else vocab_size
        sha256, largest = _survey(name, (train, val), limit, masked=masked)
        natural = 256 if train.dtype == np.uint8 else largest + 1
        how = _mask_past(natural, mask_id) if masked else None
    return Corpus(name, sha256, natural, train, val, how, ids.content)


def _mask_past(natural: int, mask_id: int | None) -> Masking:
    """The mask of ids that no tokenizer is known to: their vocabulary's last, or one more."""
    mask_id = natural if mask_id is None else mask_id
    return Masking(mask_id, np.arange(min(natural, mask_id)))


def _check_length(name: str, part: str, tokens: Tokens, seq_len: int) -> None:
    """Each part must hold at least one sequence and the target of its last token."""
    if tokens.size <= seq_len:
        raise GradlabError(
            f"the {part} part of {name} has {tokens.size:,} tokens, fewer than the "
            f"{seq_len + 1:,} of one sequence and its next token: use a longer text, "
            "another held_out share, or a shorter max_seq_len."
        )


def _check_room(config: DataConfig, natural: int, vocab_size: int | None) -> None:
    """A masked model is shown ids that the text may not have."""
    if vocab_size is not None and vocab_size < natural:
        raise GradlabError(
            f"the tokenizer {config.tokenizer!r} has ids up to {natural - 1:,}, past the "
            f"vocabulary of {vocab_size:,}: give the model vocab_size = {natural}."
        )


def _survey(
    name: str, parts: Sequence[Tokens], vocab_size: int | None, *, masked: bool = False
) -> tuple[str, int]:
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
                wanted = "and one more for the mask (257" if masked else "(256"
                raise GradlabError(
                    f"{name} has the token id {int(chunk[first - position])} at position "
                    f"{first:,}, past the vocabulary of {vocab_size:,}: give the model the "
                    f"vocab_size of the corpus's tokenizer {wanted} for bytes)."
                )
            largest = max(largest, here)
            position += chunk.size
    return digest.hexdigest(), largest
