"""Prints how well the models know their tasks: `python -m seqlens_zoo.evaluate [--task TASK]`."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import torch
from tqdm import tqdm

from seqlens_zoo import ledger
from seqlens_zoo.antecedent import KITTEN_SENTENCE
from seqlens_zoo.antecedent.measure import accuracy, answer, kitten_sentences_right
from seqlens_zoo.bodies import BODY_NAMES
from seqlens_zoo.ledger.measure import accuracy as ledger_accuracy
from seqlens_zoo.tasks import TASK_NAMES
from seqlens_zoo.weights import WEIGHTS, load_body

DISTANCES: Final = (4, 8, 16, 32, 64, 128, 256, 512, 900)
FACTS: Final = (1, 2, 4, 8, 16, 32, 64)  # behind a gap of 32 words
GAPS: Final = (0, 8, 32, 64, 256)  # behind 2 and 8 facts
MANY_FACTS_GAP: Final = 32

Row = list[str]


def main() -> None:
    """Measure all three models of a task on the same texts."""
    parser = argparse.ArgumentParser(description="How well the example models know their tasks.")
    parser.add_argument("--task", choices=TASK_NAMES, default="antecedent")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="folder to read from")
    parser.add_argument("--texts", type=int, default=300, help="for each model and point")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()

    torch.set_num_threads(1)
    table = _antecedent if options.task == "antecedent" else _ledger
    for row in list(table(options.weights, options.texts, options.seed)):
        print(f"| {' | '.join(row)} |")


def _antecedent(weights: Path, texts: int, seed: int) -> Iterator[Row]:
    """Accuracy by distance, and the kitten sentence."""
    header = ["distance in words", *map(str, DISTANCES), "kitten sentence", "any animal in it"]
    yield from (header, ["---"] * len(header))
    for body in tqdm(BODY_NAMES, desc="evaluating", unit="model"):
        model = load_body(body, "antecedent", weights)
        scores = [accuracy(model, distance, texts, seed) for distance in DISTANCES]
        kitten = answer(model, KITTEN_SENTENCE)
        animals = f"{kitten_sentences_right(model):.1f}"
        shown = f"{kitten.noun} {kitten.probability:.3f}"
        yield [body, *(f"{score:.3f}" for score in scores), shown, animals]


def _ledger(weights: Path, texts: int, seed: int) -> Iterator[Row]:
    """Accuracy by number of facts and by gap; ``texts`` is the least number of questions."""
    points = [(facts, MANY_FACTS_GAP) for facts in FACTS]
    points += [(facts, gap) for facts in (2, 8) for gap in GAPS]
    header = ["facts / gap", *(f"{facts} / {gap}" for facts, gap in points)]
    yield from (header, ["---"] * len(header))
    guess = 1 / len(ledger.LABELS)
    yield ["guessing", *(f"{guess:.3f}" for _ in points)]
    for body in tqdm(BODY_NAMES, desc="evaluating", unit="model"):
        model = load_body(body, "ledger", weights)
        scores = [
            ledger_accuracy(model, facts=facts, gap=gap, questions=texts, seed=seed)
            for facts, gap in points
        ]
        yield [body, *(f"{score:.3f}" for score in scores)]


if __name__ == "__main__":
    main()
