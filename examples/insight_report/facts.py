"""(b) How much at once: accuracy and occlusion by number of facts."""

from typing import Final

import numpy as np

from insight_report import charts
from insight_report.section import Figures, Picture, Section
from insight_report.words import listed, percent
from seqlens_client import Client
from seqlens_zoo.ledger import LedgerText, generate

ARCHITECTURES: Final = ("rnn", "lstm", "transformer")
FACTS: Final = (1, 2, 4, 8, 16, 32, 64)
LOOKED_AT: Final = (2, 8, 32)  # facts; occlusion is measured for these
GAP, QUESTIONS, TEXTS = 8, 256, 3
GUESSING: Final = 1 / 16


def measure(client: Client) -> Figures:
    return {
        "facts": list(FACTS),
        "looked_at": list(LOOKED_AT),
        "gap": GAP,
        "accuracy": {
            a: [_accuracy(client, f"ledger-{a}-onnx", facts) for facts in FACTS]
            for a in ARCHITECTURES
        },
        "fact_share": {
            a: [_share(client, f"ledger-{a}-onnx", facts) for facts in LOOKED_AT]
            for a in ARCHITECTURES
        },
    }


def _texts(facts: int, count: int, questions: int | None = None) -> list[LedgerText]:
    rng = np.random.default_rng((13, facts))
    return [generate(rng, facts=facts, gap=GAP, questions=questions) for _ in range(count)]


def _accuracy(client: Client, model: str, facts: int) -> float:
    texts = _texts(facts, max(4, QUESTIONS // min(facts, 32)))
    labels = client.describe(model).labels
    right = asked = 0
    results = client.infer(model, [one.text for one in texts])
    for result, text in zip(results, texts, strict=True):
        given = result.output[-len(text.answers) :].argmax(1)
        right += sum(labels[int(g)] == a for g, a in zip(given, text.answers, strict=True))
        asked += len(text.answers)
    return right / asked


def _share(client: Client, model: str, facts: int) -> float:
    """Occlusion share of the thing asked for, among the facts' things; the median."""
    texts = _texts(facts, TEXTS, questions=1)
    answer = client.influence(model, [t.text for t in texts], output_positions=[-1], timeout=300)
    shares = []
    for each, text in zip(answer.maps, texts, strict=True):
        things = each.shares[0, 1 : 2 * facts : 2]
        total = float(things.sum())
        shares.append(float(each.shares[0, text.facts[0]]) / total if total else 0.0)
    return float(np.median(shares))


def sentences(figures: Figures) -> list[str]:
    told = []
    for name, row in figures["accuracy"].items():
        held = [f for f, share in zip(figures["facts"], row, strict=True) if share >= 0.9]
        most = max(held, default=0)
        reach = f"answers up to {most} {'fact' if most == 1 else 'facts'}"
        shares = figures["fact_share"][name]
        looked = listed(
            [f"{percent(s)} of {n}" for s, n in zip(shares, figures["looked_at"], strict=True)]
        )
        told.append(
            f"{name}: {reach} at 90% or more; of {figures['facts'][-1]} it knows "
            f"{percent(row[-1])}. When a thing is replaced, the share of the right one among all "
            f"things told is {looked}."
        )
    return told


def pictures(figures: Figures) -> list[Picture]:
    x = figures["facts"]
    accuracy = {"accuracy": {a: (x, figures["accuracy"][a]) for a in ARCHITECTURES}}
    return [
        Picture(
            charts.lines(
                accuracy, across="facts in the text", up="right", dashed={"guessing": GUESSING}
            ),
            f"Accuracy by number of facts, {figures['gap']} words before the first question.",
        )
    ]


SECTION = Section(
    "facts",
    "How much at once?",
    "How many facts does each architecture hold, at equal size?",
    measure,
    sentences,
    pictures,
)
