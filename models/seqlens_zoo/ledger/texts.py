"""Makes texts of the ledger task, with the number of facts and the gap asked for."""

from dataclasses import dataclass
from typing import Final

from numpy.random import Generator

from seqlens_zoo.ledger.words import FILLER, NAMES, QUESTION, THINGS

MOST_QUESTIONS: Final = 32


@dataclass(frozen=True, slots=True)
class LedgerText:
    """A text, and what is right at each of the names after its question mark."""

    text: str  # words separated by single spaces; the questions are its last words
    answers: tuple[str, ...]  # one of `words.THINGS` for each question, in order
    facts: tuple[int, ...]  # place in the text of the thing that each question asks for


def generate(
    rng: Generator, *, facts: int, gap: int, names: int = len(NAMES), questions: int | None = None
) -> LedgerText:
    """Make one text; the same state of `rng` gives the same text.

    `facts` different people out of the first `names` each have one of 16 things, which may
    repeat; `gap` filler words follow; then `questions` different people are asked for (None: all,
    but at most 32). Raises ValueError for numbers that do not go together.
    """
    questions = min(facts, MOST_QUESTIONS) if questions is None else questions
    if not 1 <= facts <= names <= len(NAMES):
        raise ValueError(
            f"facts: got {facts} of {names} names, expected 1 to names to {len(NAMES)}"
        )
    if gap < 0 or not 1 <= questions <= facts:
        raise ValueError(f"got gap {gap}, {questions} questions: expected from 0, 1 to facts")
    people = rng.permutation(names)[:facts]
    things = rng.integers(len(THINGS), size=facts)
    asked = rng.permutation(facts)[:questions]
    told = [word for p, t in zip(people, things, strict=True) for word in (NAMES[p], THINGS[t])]
    filler = [FILLER[i] for i in rng.integers(len(FILLER), size=gap)]
    words = [*told, *filler, QUESTION, *(NAMES[people[i]] for i in asked)]
    return LedgerText(
        " ".join(words),
        tuple(THINGS[things[i]] for i in asked),
        tuple(int(2 * i + 1) for i in asked),
    )
