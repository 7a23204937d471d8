"""Batches of the antecedent task, for training and for measuring."""

from dataclasses import dataclass
from math import exp, log
from typing import Final

import torch
from numpy.random import Generator
from torch import Tensor

from seqlens_zoo.antecedent.texts import AntecedentText, draw_words, generate
from seqlens_zoo.antecedent.tokens import encode
from seqlens_zoo.antecedent.words import LABELS

TRAINED_DISTANCES: Final = (2, 128)


@dataclass(frozen=True, slots=True)
class Batch:
    """Texts of equal length, so nothing is padded."""

    tokens: Tensor  # int64 [batch, sequence]
    lengths: Tensor  # int64 [batch]
    answers: Tensor  # int64 [batch], places in `words.LABELS`


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
    return Batch(
        tokens=torch.tensor([encode(text.text) for text in made]),
        lengths=torch.full((texts,), words),
        answers=torch.tensor([_label(text) for text in made]),
    )


def _label(text: AntecedentText) -> int:
    return LABELS.index(text.answer)
