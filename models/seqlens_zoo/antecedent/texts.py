"""Makes texts of the antecedent task, with the distance and the length asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log
from typing import Final, TypeVar

from numpy.random import Generator

from seqlens_zoo.antecedent.words import HEADS, NOUNS, SCENERY, TAILS, Kind, Phrase

KITTEN_SENTENCE_IN_FULL: Final = (
    "The kitten was only playing in the park because there were many kind people in the park "
    "who fed it , for example , it ate a lot of fish yesterday"
)
# Up to its last pronoun, as the task asks; the answer, 23 words before the end, is "kitten".
KITTEN_SENTENCE: Final = KITTEN_SENTENCE_IN_FULL.removesuffix(" ate a lot of fish yesterday")

MOST_WORDS_BEFORE: Final = 48

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class AntecedentText:
    """A text that ends in a pronoun, and the noun which that pronoun stands for."""

    text: str  # words separated by single spaces
    answer: str  # one of `words.LABELS`; exactly one such noun of its kind is in the text
    distance: int  # words from the answer to the pronoun, which is the last word


def generate(rng: Generator, *, distance: int, words: int | None = None) -> AntecedentText:
    """Make one text; the same state of `rng` gives the same text.

    `distance` is the position of the pronoun minus that of its noun, at least 1. `words` is the
    length of the text, at least `distance + 2`; None draws it, with 1 to `MOST_WORDS_BEFORE`
    words in front of the noun. Raises ValueError when `distance` or `words` is too small.
    """
    if distance < 1:
        raise ValueError(f"distance: got {distance}, expected at least 1")
    if words is None:
        words = draw_words(rng, distance)
    before = words - distance - 1
    if before < 1:
        raise ValueError(f"words: got {words}, expected at least distance + 2 = {distance + 2}")

    kinds = [tuple(Kind)[i] for i in rng.permutation(len(Kind))]
    asked, *others = kinds[: 1 + int(rng.integers(len(Kind)))]
    left = [kind for kind in others if rng.random() < 0.5]
    right = [kind for kind in others if kind not in left]

    noun = _pick(rng, NOUNS[asked])
    head = _pick(rng, _fitting(HEADS[asked], before))
    tail = _pick(rng, _fitting(TAILS[asked], distance - 1))
    text = (
        *_fill(rng, before - len(head), left),
        *head,
        noun,
        *tail,
        *_fill(rng, distance - 1 - len(tail), right),
        asked.value,
    )
    return AntecedentText(" ".join(text), noun, distance)


def draw_words(rng: Generator, distance: int) -> int:
    """Draw the length of a text, in words: short beginnings are more likely than long ones."""
    before = exp(rng.uniform(0, log(MOST_WORDS_BEFORE + 1)))
    return int(before) + distance + 1


def _fill(rng: Generator, room: int, actors: Sequence[Kind]) -> Phrase:
    """Exactly `room` words: scenery and, as far as they fit, one mention of each actor."""
    phrases: list[Phrase] = []
    for actor in actors:
        mention = (*_pick(rng, HEADS[actor]), _pick(rng, NOUNS[actor]), *_pick(rng, TAILS[actor]))
        if len(mention) <= room:
            phrases.append(mention)
            room -= len(mention)
    while room > 0:
        phrase = _pick(rng, _fitting(SCENERY, room))
        phrases.append(phrase)
        room -= len(phrase)
    return tuple(word for i in rng.permutation(len(phrases)) for word in phrases[i])


def _fitting(phrases: Sequence[Phrase], room: int) -> Sequence[Phrase]:
    return [phrase for phrase in phrases if len(phrase) <= room]


def _pick(rng: Generator, choices: Sequence[_T]) -> _T:
    return choices[int(rng.integers(len(choices)))]
