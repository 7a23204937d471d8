"""The task "antecedent": which noun does the last pronoun of a text stand for?

A text of short English phrases mentions one to four actors, at most one of each kind (a
thing or animal: it; a woman: she; a man: he; several people: they), and ends with the
pronoun of one of them. The answer is that actor's noun, one of 40. The distance in words
from noun to pronoun is chosen, so a model's memory can be measured.
"""

from seqlens_zoo.antecedent.texts import (
    KITTEN_SENTENCE,
    KITTEN_SENTENCE_IN_FULL,
    AntecedentText,
    generate,
)
from seqlens_zoo.antecedent.tokens import encode, tokenizer
from seqlens_zoo.antecedent.words import LABELS, VOCABULARY, Kind

__all__ = [
    "KITTEN_SENTENCE",
    "KITTEN_SENTENCE_IN_FULL",
    "LABELS",
    "VOCABULARY",
    "AntecedentText",
    "Kind",
    "encode",
    "generate",
    "tokenizer",
]
