"""The words of the ledger task."""

from typing import Final

from seqlens_zoo.word_tokens import PAD, UNKNOWN


def _words(lines: str) -> tuple[str, ...]:
    return tuple(lines.split())


NAMES: Final = _words("""
anna ben clara david emma felix greta henry ida jack kate leo mia noah olga paul
quinn rosa sam tina uma victor wanda xenia yusuf zoe adam bella carl dora eric fiona
george hanna ivan julia karl lena max nina oscar petra ralf sara tom ursula vera will
alma boris cora dean ella fred gina hugo iris jonas kira lars maya nils otto pia
""")
THINGS: Final = _words("""
apples bread cheese dates eggs figs grapes honey jam kale lemons milk nuts olives pears rice
""")
FILLER: Final = _words("""
meanwhile it rained as usual and the wind blew softly over green hills
""")
QUESTION: Final = "?"

LABELS: Final = THINGS  # the class names, in the order of the logits
# Every word, in the order of the token ids; `PAD` is 0 and `UNKNOWN` is 1.
VOCABULARY: Final = (PAD, UNKNOWN, QUESTION, *NAMES, *THINGS, *FILLER)
