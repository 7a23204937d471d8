"""Measures how many facts a model holds."""

from typing import Final

import numpy as np
import torch
from torch import nn

from seqlens_zoo.ledger.batches import make_batch
from seqlens_zoo.lessons import NO_ANSWER

# Attention over long texts takes memory with the square of their length.
TOKENS_PER_BATCH: Final = 8_192


@torch.no_grad()
def accuracy(model: nn.Module, *, facts: int, gap: int, questions: int, seed: int) -> float:
    """Share of right answers to at least `questions` questions about `facts` facts.

    The same seed asks the same questions of every model, of any of the 64 names. Guessing gives
    1/16; knowing which things were named, but not whose they are, about 1/facts + 1/16.
    """
    rng = np.random.default_rng((seed, facts, gap, questions))
    right = asked = 0
    words = 2 * facts + gap + 1 + facts
    while asked < questions:
        texts = max(1, min(TOKENS_PER_BATCH // words, (questions - asked) // min(facts, 32) + 1))
        batch = make_batch(rng, facts=facts, gap=gap, texts=texts)
        guesses = model(*batch.inputs).argmax(2)
        is_asked = batch.answers != NO_ANSWER
        right += int((guesses == batch.answers)[is_asked].sum())
        asked += int(is_asked.sum())
    return right / asked
