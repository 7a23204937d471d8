"""Batches of the ledger task: more and more facts, as they are learnt."""

from typing import Any, Final

import torch
from numpy.random import Generator

from seqlens_zoo.ledger.texts import generate
from seqlens_zoo.ledger.tokens import encode
from seqlens_zoo.ledger.words import LABELS, NAMES
from seqlens_zoo.lessons import NO_ANSWER, Batch, Lessons

TRAINED_GAP: Final = 63  # longest gap in training

_FIRST, _LAST = 1.6, 6.0  # of `top`: from 3 facts to 64
_RISE = 0.25
_LEARNT_NATS, _LEARNT_STEPS = 0.35, 20
_DRIVEN = (0.5, 0.7)  # in this part of the training `top` is driven up, learnt or not
_FEWEST_TEXTS, _MOST_TEXTS = 8, 192


class LedgerLessons(Lessons):
    """Begins with few facts of few people; from 64 at once nothing is learnt.

    `top` is the logarithm to base 2 of the largest number of facts.
    """

    def __init__(self) -> None:
        self._top = _FIRST
        self._losses: list[float] = []  # since `top` rose last
        self._driven_from: float | None = None  # what `top` was when it began to be driven

    def batch(self, rng: Generator, tokens: int, progress: float) -> Batch:
        """About `tokens` tokens of texts with one number of facts and one gap."""
        self._drive(progress)
        facts = round(2 ** rng.uniform(1, self._top))
        gap = round(2 ** rng.uniform(0, min(6.0, 2 * self._top - 1))) - 1
        names = min(len(NAMES), max(8, round(2 ** (self._top + 1.5))))
        words = 2 * facts + gap + 1 + facts
        texts = min(_MOST_TEXTS, max(_FEWEST_TEXTS, tokens // words))
        return make_batch(rng, facts=facts, gap=gap, texts=texts, names=names)

    def note(self, loss: float) -> None:
        """Let the number of facts rise when those so far are learnt."""
        self._losses = [*self._losses, loss][-_LEARNT_STEPS:]
        enough = len(self._losses) == _LEARNT_STEPS
        if enough and sum(self._losses) / _LEARNT_STEPS < _LEARNT_NATS and self._top < _LAST:
            self._top = min(_LAST, self._top + _RISE)
            self._losses = []

    def state(self) -> dict[str, Any]:
        """All that `restore` needs."""
        return {"top": self._top, "losses": self._losses, "driven_from": self._driven_from}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self._top, self._losses = state["top"], state["losses"]
        self._driven_from = state["driven_from"]

    def _drive(self, progress: float) -> None:
        start, end = _DRIVEN
        if progress < start:
            return
        if self._driven_from is None:
            self._driven_from = self._top
        share = min(1.0, (progress - start) / (end - start))
        self._top = max(self._top, self._driven_from + share * (_LAST - self._driven_from))


def make_batch(
    rng: Generator, *, facts: int, gap: int, texts: int, names: int = len(NAMES)
) -> Batch:
    """`texts` texts with one number of facts and one gap."""
    made = [generate(rng, facts=facts, gap=gap, names=names) for _ in range(texts)]
    tokens = torch.tensor([encode(text.text) for text in made])
    answers = torch.full_like(tokens, NO_ANSWER)
    right = torch.tensor([[LABELS.index(thing) for thing in text.answers] for text in made])
    answers[:, -right.shape[1] :] = right  # the questions are the last words
    return Batch(inputs=(tokens,), answers=answers)
