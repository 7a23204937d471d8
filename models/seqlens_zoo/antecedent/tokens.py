"""The word-level tokenizer of the antecedent task."""

from functools import cache

from tokenizers import Tokenizer

from seqlens_zoo.antecedent.words import VOCABULARY
from seqlens_zoo.word_tokens import word_tokenizer


@cache
def tokenizer() -> Tokenizer:
    """One token a word; token ids are places in `words.VOCABULARY`."""
    return word_tokenizer(VOCABULARY)


def encode(text: str) -> list[int]:
    """Token ids of a text; words outside the vocabulary get the id of `words.UNKNOWN`."""
    ids: list[int] = tokenizer().encode(text).ids
    return ids
