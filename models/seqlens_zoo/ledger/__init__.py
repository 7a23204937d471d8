"""The task "ledger": who has what, for many people at once?

A text names people, each with a thing ("anna apples ben bread"), goes on for a while about
nothing, and then asks, after a question mark, for the thing of one person after the other. The
number of facts and the words between facts and questions are chosen, so it can be measured how
much a model holds, apart from how far back.
"""

from seqlens_zoo.ledger.texts import LedgerText, generate
from seqlens_zoo.ledger.tokens import encode, tokenizer
from seqlens_zoo.ledger.words import LABELS, NAMES, VOCABULARY

__all__ = ["LABELS", "NAMES", "VOCABULARY", "LedgerText", "encode", "generate", "tokenizer"]
