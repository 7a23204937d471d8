"""The word-level tokenizer of the antecedent task."""

from functools import cache

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Punctuation, Sequence, WhitespaceSplit

from seqlens_zoo.antecedent.words import UNKNOWN, VOCABULARY


@cache
def tokenizer() -> Tokenizer:
    """One token a word, lower case; token ids are places in `words.VOCABULARY`.

    A comma that touches its word, as people write it, is split off.
    """
    ids = {word: i for i, word in enumerate(VOCABULARY)}
    made = Tokenizer(WordLevel(ids, unk_token=UNKNOWN))
    made.normalizer = Lowercase()
    made.pre_tokenizer = Sequence([WhitespaceSplit(), Punctuation("isolated")])
    return made


def encode(text: str) -> list[int]:
    """Token ids of a text; words outside the vocabulary get the id of `words.UNKNOWN`."""
    ids: list[int] = tokenizer().encode(text).ids
    return ids
