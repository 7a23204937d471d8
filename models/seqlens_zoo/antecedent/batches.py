"""Batches of the antecedent task, for training and for measuring."""

from math import exp, log
from typing import Final

import torch
from numpy.random import Generator

from seqlens_zoo.antecedent.texts import AntecedentText, draw_words, generate
from seqlens_zoo.antecedent.tokens import encode
from seqlens_zoo.antecedent.words import LABELS
from seqlens_zoo.lessons import Batch, SteadyLessons

TRAINED_DISTANCES: Final = (2, 128)


class AntecedentLessons(SteadyLessons):
    """The same kind of texts from the first step to the last."""

    def batch(self, rng: Generator, tokens: int, progress: float) -> Batch:
        """About `tokens` tokens of new texts."""
        return training_batch(rng, tokens)


def training_batch(rng: Generator, tokens: int) -> Batch:
    """About `tokens` tokens of texts with one length and one distance.

    The distance is log-uniform within `TRAINED_DISTANCES`: short ones are easier, and learnt first.
    """
    shortest, longest = TRAINED_DISTANCES
    distance = int(exp(rng.uniform(log(shortest), log(longest + 1))))
    words = draw_words(rng, distance)
    return make_batch(rng, distance, words, texts=max(1, tokens // words))


def make_batch(rng: Generator, distance: int, words: int, texts: int) -> Batch:
    """`texts` texts of `words` words with one distance in words."""
    made = [generate(rng, distance=distance, words=words) for _ in range(texts)]
    tokens = torch.tensor([encode(text.text) for text in made])
    return Batch(
        inputs=(tokens, torch.full((texts,), words)),
        answers=torch.tensor([_label(text) for text in made]),
    )


def _label(text: AntecedentText) -> int:
    return LABELS.index(text.answer)
