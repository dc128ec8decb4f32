"""Hugging Face datasets as documents: from the hub, or from a folder on disk."""

import os
from collections.abc import Iterator
from typing import Any

from gradlab.errors import GradlabError
from gradlab.extra import needs_extra
from gradlab.paths import as_path

PREFIX = "hf:"


def load_documents(name: str) -> list[list[bytes]]:
    """The documents of `hf:NAME` or `hf:NAME:CONFIG`, in one part or in two.

    NAME is a dataset on the hub or a folder: one that `save_to_disk` wrote, or one of data files
    that `load_dataset` understands. With a `train` and a `validation` split these are the two
    parts; a dataset with a single other split, or with `train` alone or beside `test`, gives one
    part, whose end the caller holds out. The text is the column `text`, or the only text column.

    Raises:
        GradlabError: The package is not installed, the dataset cannot be loaded, or it has no
            text column or no training split.
    """
    with needs_extra("datasets", f"the corpus {name!r}", "datasets"):
        from datasets import load_dataset, load_from_disk

    drive, rest = os.path.splitdrive(name.removeprefix(PREFIX))  # C: has a colon of its own
    path, _, config = rest.partition(":")
    path = drive + path
    folder = as_path(path)
    path = str(folder) if path.startswith("~") else path
    saved = any((folder / file).is_file() for file in ("dataset_dict.json", "state.json"))
    try:
        loaded = load_from_disk(path) if saved else load_dataset(path, config or None)
    except Exception as error:  # network, script, format and configuration errors share no base
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise GradlabError(
            f"the dataset {name!r} cannot be loaded: {reason or type(error).__name__}."
        ) from error
    splits = dict(loaded) if isinstance(loaded, dict) else {"train": loaded}
    if len(splits) > 1 and "train" not in splits:
        raise GradlabError(
            f"the dataset {name!r} has no split named train, only {', '.join(splits)}."
        )
    train = splits["train"] if "train" in splits else next(iter(splits.values()))
    held_out = [splits["validation"]] if "validation" in splits and "train" in splits else []
    return [list(_documents(name, part)) for part in [train, *held_out]]


def _documents(name: str, split: Any) -> Iterator[bytes]:
    """Each row's text as UTF-8; rows without text are left out."""
    texts = [
        column
        for column, kind in split.features.items()
        if getattr(kind, "dtype", None) in ("string", "large_string")
    ]
    if "text" not in texts and len(texts) != 1:
        raise GradlabError(
            f"the dataset {name!r} has no column named text and {len(texts)} text columns among "
            f"{', '.join(split.features)}: rename the one to read to text."
        )
    column = "text" if "text" in texts else texts[0]
    for batch in split.select_columns([column]).iter(batch_size=1024):
        for text in batch[column]:
            if text:
                yield text.encode("utf-8")
