"""The words and phrases of the antecedent task."""

from enum import Enum
from typing import Final

from seqlens_zoo.word_tokens import PAD, UNKNOWN

Phrase = tuple[str, ...]


class Kind(Enum):
    """Kind of actor; the value is the pronoun that ends a text about such an actor."""

    IT = "it"
    SHE = "she"
    HE = "he"
    THEY = "they"


def _phrases(lines: str) -> tuple[Phrase, ...]:
    """One phrase a line; `-` is the empty phrase."""
    return tuple(() if line == "-" else tuple(line.split()) for line in lines.strip().split("\n"))


NOUNS: Final = dict(
    zip(
        Kind,
        _phrases("""
kitten puppy rabbit horse bird fox hamster lamb goat duck
girl woman queen mother sister aunt princess daughter grandmother niece
boy man king father brother uncle prince son grandfather nephew
people children parents students neighbours tourists farmers sailors dancers players
"""),
        strict=True,
    )
)

_ONE_HEADS = _phrases("""
the
a
the small
a small
the young
""")
_ONE_TAILS = _phrases("""
-
waited
was there
was playing
was only playing
was only playing in the park
was in the garden
ate a lot of fish yesterday
""")
_SEVERAL_HEADS = _phrases("""
the
many
many kind
there were many kind
because there were many kind
""")
_SEVERAL_TAILS = _phrases("""
-
waited
in the park
were there
were playing
were only playing in the park
""")

# What stands to the left and to the right of an actor's noun.
HEADS: Final = {kind: _SEVERAL_HEADS if kind is Kind.THEY else _ONE_HEADS for kind in Kind}
TAILS: Final = {kind: _SEVERAL_TAILS if kind is Kind.THEY else _ONE_TAILS for kind in Kind}

# No nouns of actors here. Pronouns may come: only the last one of a text asks.
SCENERY: Final = _phrases("""
,
and
often
again
then
soon
today
yesterday
as usual
of course
once more
far away
for a while
every evening
before lunch
without a word
, for example ,
who fed it
who fed her
who fed him
who fed them
in the park
in the garden
at the market
by the river
behind the house
with a red ball
with great care
while rain fell
a boat passed
under a tall tree
on a cold morning
after the long winter
near the old bridge
when the bell rang
along the quiet street
across the green field
the door was open
the wind was strong
the coffee was hot
the train came late
the water was blue
because the weather was fine
while the sun was shining
because snow had come early
not far from the station
ate bread and cheese
ate a lot of fish yesterday
and everything was calm
""")

# The class names, in the order of the logits.
LABELS: Final[Phrase] = tuple(noun for nouns in NOUNS.values() for noun in nouns)


def _vocabulary() -> Phrase:
    phrases = (
        (PAD, UNKNOWN),
        tuple(kind.value for kind in Kind),
        LABELS,
        *_ONE_HEADS,
        *_ONE_TAILS,
        *_SEVERAL_HEADS,
        *_SEVERAL_TAILS,
        *SCENERY,
    )
    return tuple(dict.fromkeys(word for phrase in phrases for word in phrase))


# Every word, in the order of the token ids; `PAD` is 0 and `UNKNOWN` is 1.
VOCABULARY: Final[Phrase] = _vocabulary()
