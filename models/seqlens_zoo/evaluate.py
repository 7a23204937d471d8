"""Prints accuracy by distance as a Markdown table: `python -m seqlens_zoo.evaluate`."""

import argparse
from pathlib import Path
from typing import Final

import torch
from tqdm import tqdm

from seqlens_zoo.antecedent import KITTEN_SENTENCE
from seqlens_zoo.antecedent.measure import accuracy, answer, kitten_sentences_right
from seqlens_zoo.bodies import BODY_NAMES
from seqlens_zoo.weights import WEIGHTS, load_body

DISTANCES: Final = (4, 8, 16, 32, 64, 128, 256, 512, 900)


def main() -> None:
    """Measure all three models on the same texts, and on the kitten sentence."""
    parser = argparse.ArgumentParser(description="Accuracy of the example models by distance.")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="folder to read from")
    parser.add_argument("--texts", type=int, default=300, help="for each model and distance")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()

    torch.set_num_threads(1)
    rows = []
    for body in tqdm(BODY_NAMES, desc="evaluating", unit="model"):
        model = load_body(body, options.weights)
        scores = [accuracy(model, distance, options.texts, options.seed) for distance in DISTANCES]
        kitten = answer(model, KITTEN_SENTENCE)
        animals = f"{kitten_sentences_right(model):.1f}"
        shown = f"{kitten.noun} {kitten.probability:.3f}"
        rows.append([body, *(f"{score:.3f}" for score in scores), shown, animals])

    header = ["distance in words", *map(str, DISTANCES), "kitten sentence", "any animal in it"]
    for row in (header, ["---"] * len(header), *rows):
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
