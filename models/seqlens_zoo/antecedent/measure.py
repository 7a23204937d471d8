"""Measures how well a model answers the antecedent task."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import nn

from seqlens_zoo.antecedent.batches import make_batch
from seqlens_zoo.antecedent.texts import KITTEN_SENTENCE, draw_words
from seqlens_zoo.antecedent.tokens import encode
from seqlens_zoo.antecedent.words import LABELS, NOUNS, Kind

# Attention over long texts takes memory with the square of their length.
TOKENS_PER_BATCH: Final = 4_096


@dataclass(frozen=True, slots=True)
class Answer:
    """The noun that a model names, and its softmax probability."""

    noun: str
    probability: float


@torch.no_grad()
def accuracy(model: nn.Module, distance: int, texts: int, seed: int) -> float:
    """Share of right answers over `texts` new texts with `distance` words from noun to pronoun.

    The same seed asks the same questions of every model. Training uses seeds of two numbers, so
    none of its texts are drawn again.
    """
    rng = np.random.default_rng((seed, distance, texts))
    right, left = 0, texts
    while left:
        words = draw_words(rng, distance)
        count = min(left, max(1, TOKENS_PER_BATCH // words))
        batch = make_batch(rng, distance, words, count)
        guesses = model(*batch.inputs).argmax(1)
        right += int((guesses == batch.answers).sum())
        left -= count
    return right / texts


@torch.no_grad()
def answer(model: nn.Module, text: str) -> Answer:
    """The model's answer to a text that ends in a pronoun."""
    tokens = encode(text)
    logits = model(torch.tensor([tokens]), torch.tensor([len(tokens)]))
    probability, label = logits.softmax(1).max(1)
    return Answer(LABELS[int(label)], float(probability))


def kitten_sentences_right(model: nn.Module) -> float:
    """Share of right answers to the kitten sentence, with each animal in the kitten's place.

    One right answer may be luck: a model that has forgotten all still names some animal.
    """
    animals = NOUNS[Kind.IT]
    answers = [answer(model, KITTEN_SENTENCE.replace("kitten", animal)) for animal in animals]
    right = sum(given.noun == animal for given, animal in zip(answers, animals, strict=True))
    return right / len(animals)
