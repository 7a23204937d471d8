"""(e) What does not hold, from the figures of the sections before."""

from collections.abc import Mapping

from insight_report.section import Figures
from insight_report.words import percent

VANISHED, DEPENDS = 0.01, 0.1  # shares


def limits(figures: Mapping[str, Figures]) -> list[str]:
    """Sentences about claims that are often made, and what was measured of them here."""
    return [
        _lstm_and_distance(figures["distance"]),
        _gradient_and_dependence(figures["recall"]),
        _lstm_and_number(figures["facts"]),
        _heads_and_answers(figures["heads"]),
        "All of this was measured on small models with one training each: it shows what these "
        "models do, not what an architecture can or cannot do.",
    ]


def _lstm_and_distance(distance: Figures) -> str:
    words, right = distance["accuracy_distances"][-1], distance["accuracy"]["lstm"][-1]
    verdict = "does not hold" if right >= 0.9 else "holds here"
    return (
        f'"An LSTM forgets over a long distance" {verdict}: with one fact to keep, it is right in '
        f"{percent(right)} of the texts at {words} words."
    )


def _gradient_and_dependence(recall: Figures) -> str:
    gradient, share = recall["shares"]["jacobian"][0], recall["shares"]["occlusion"][0]
    refuted = gradient < VANISHED and share > DEPENDS
    return (
        f'"A vanished gradient means that the answer ignores the word" '
        f"{'does not hold' if refuted else 'is not refuted here'}: at the first of "
        f"{recall['length']} tokens an RNN has {percent(gradient)} of its gradient and "
        f"{percent(share)} of its influence, and says it rightly in {percent(recall['accuracy'])}."
    )


def _lstm_and_number(facts: Figures) -> str:
    number = facts["facts"][-1]
    lstm, transformer = (facts["accuracy"][name][-1] for name in ("lstm", "transformer"))
    verdict = "shows in their number" if transformer > lstm else "does not show in their number"
    return (
        f"What a fixed state costs {verdict}, not in the distance: of {number} facts the LSTM "
        f"knows {percent(lstm)}, the Transformer of equal size {percent(transformer)}. A wider "
        "LSTM, or one trained for longer, was not tried."
    )


def _heads_and_answers(heads: Figures) -> str:
    models = heads["models"]
    one, most = models["1"]["accuracy"], list(models.values())[-1]["accuracy"]
    holds = most > one + 0.02
    return (
        f'"More heads answer better" {"holds" if holds else "does not hold"} in this training: one '
        f"head is right in {percent(one)}, {list(models)[-1]} heads in {percent(most)}."
    )
