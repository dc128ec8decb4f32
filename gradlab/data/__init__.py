"""Corpora as token arrays, and batches of them that are functions of (seed, step).

`corpus` names where text comes from and puts it into one shape; `batches` cuts windows out of it.
"""

from gradlab.data.batches import train_batch, validation_batches
from gradlab.data.corpus import Corpus, load_corpus
from gradlab.data.entropy import unigram_entropy

__all__ = ["Corpus", "load_corpus", "train_batch", "unigram_entropy", "validation_batches"]
