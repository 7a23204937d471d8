"""Word-level tokenizers: one token a word."""

from collections.abc import Sequence
from typing import Final

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Punctuation, WhitespaceSplit
from tokenizers.pre_tokenizers import Sequence as Steps

PAD: Final = "[PAD]"
UNKNOWN: Final = "[UNK]"


def word_tokenizer(vocabulary: Sequence[str]) -> Tokenizer:
    """One token a word, lower case; token ids are places in `vocabulary`, which has `UNKNOWN`.

    Punctuation that touches its word, as people write it, is split off.
    """
    ids = {word: i for i, word in enumerate(vocabulary)}
    made = Tokenizer(WordLevel(ids, unk_token=UNKNOWN))
    made.normalizer = Lowercase()
    made.pre_tokenizer = Steps([WhitespaceSplit(), Punctuation("isolated")])
    return made
