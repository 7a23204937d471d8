"""(b) How far back: accuracy, occlusion and gradient by distance, trained and untrained."""

from math import exp, log
from typing import Final

import numpy as np

from insight_report import charts
from insight_report.section import Figures, Picture, Section
from insight_report.words import listed, percent
from seqlens_client import Client, InfluenceMap
from seqlens_zoo.antecedent import AntecedentText, generate

ARCHITECTURES: Final = ("rnn", "lstm", "transformer")
DISTANCES: Final = (2, 4, 8, 16, 32, 64)
FAR_DISTANCES: Final = (128, 256, 512, 900)  # accuracy alone
TEXTS, ACCURACY_TEXTS = 4, 60
FADED: Final = 0.01  # of what the distance of 2 gives
MEASURES: Final = ("occlusion", "jacobian")


def measure(client: Client) -> Figures:
    figures: Figures = {"distances": list(DISTANCES), "models": {}}
    for architecture in ARCHITECTURES:
        for state in ("trained", "untrained"):
            model = f"{architecture}-onnx" if state == "trained" else f"untrained-{architecture}"
            figures["models"][f"{state} {architecture}"] = _influence(client, model)
    every = (*DISTANCES, *FAR_DISTANCES)
    figures["accuracy_distances"] = list(every)
    figures["accuracy"] = {
        architecture: [_accuracy(client, f"{architecture}-onnx", distance) for distance in every]
        for architecture in ARCHITECTURES
    }
    return figures


def _texts(distance: int, count: int, seed: int) -> list[AntecedentText]:
    rng = np.random.default_rng((seed, distance))
    return [generate(rng, distance=distance, words=distance + 6) for _ in range(count)]


def _influence(client: Client, model: str) -> Figures:
    """Share and value of the asked noun, by its distance; the median over some texts."""
    found: Figures = {f"{kind}_{what}": [] for kind in MEASURES for what in ("share", "value")}
    found["jacobian_below_floor"], found["seconds"] = [], 0.0
    for distance in DISTANCES:
        texts = _texts(distance, TEXTS, seed=11)
        answer = client.influence(
            model, [one.text for one in texts], measures=MEASURES, timeout=300
        )
        found["seconds"] += answer.seconds
        place = 5  # six words more than the distance: the noun is the sixth word
        for kind in MEASURES:
            maps = [each for each in answer.maps if each.measure == kind]
            found[f"{kind}_share"].append(_median([m.shares[0, place] for m in maps]))
            found[f"{kind}_value"].append(_median([m.values[0, place] for m in maps]))
            if kind == "jacobian":
                found["jacobian_below_floor"].append(_below_floor(maps, place))
    return found


def _median(values: list[np.float32]) -> float:
    return float(np.median(values))


def _below_floor(maps: list[InfluenceMap], place: int) -> float:
    return float(np.mean([each.below_floor[0, place] for each in maps]))


def _accuracy(client: Client, model: str, distance: int) -> float:
    texts = _texts(distance, ACCURACY_TEXTS, seed=12)
    labels = client.describe(model).labels
    results = client.infer(model, [one.text for one in texts])
    given = [labels[int(result.output.argmax())] for result in results]
    return sum(a == one.answer for a, one in zip(given, texts, strict=True)) / len(texts)


def sentences(figures: Figures) -> list[str]:
    told = [_fading(name, one, figures["distances"]) for name, one in figures["models"].items()]
    told += [
        _accuracies(name, row, figures["accuracy_distances"])
        for name, row in figures["accuracy"].items()
    ]
    return told


def _fading(name: str, one: Figures, distances: list[int]) -> str:
    """How the gradient at the noun changes with its distance, as far as it is known."""
    values = one["jacobian_value"]
    known = [i for i, below in enumerate(one["jacobian_below_floor"]) if below < 0.5]
    if len(known) < 2:
        return f"{name}: the gradient at the noun is below what rounding alone gives."
    first, last = known[0], known[-1]
    steps = distances[last] - distances[first]
    factor = exp(log(values[last] / values[first]) / steps)
    lost = [distances[i] for i in range(len(distances)) if i not in known]
    floor = f"; at {listed(lost)} words it is below what rounding gives" if lost else ""
    return (
        f"{name}: from {distances[first]} to {distances[last]} words the gradient at the noun "
        f"changes by a factor of {factor:.2f} a word{floor}; occlusion gives the noun "
        f"{percent(one['occlusion_share'][-1])} of the influence at {distances[-1]} words."
    )


def _accuracies(name: str, row: list[float], distances: list[int]) -> str:
    good = [d for d, share in zip(distances, row, strict=True) if share >= 0.9]
    reach = f"right in 90% or more of the texts up to {max(good)} words" if good else "never at 90%"
    return f"{name}: {reach}; at {distances[-1]} words it is right in {percent(row[-1])}."


def pictures(figures: Figures) -> list[Picture]:
    def panels(what: str) -> dict[str, dict[str, charts.Line]]:
        x = figures["distances"]
        return {
            state: {a: (x, figures["models"][f"{state} {a}"][what]) for a in ARCHITECTURES}
            for state in ("untrained", "trained")
        }

    x = figures["accuracy_distances"]
    accuracy = {"accuracy": {a: (x, figures["accuracy"][a]) for a in ARCHITECTURES}}
    return [
        Picture(
            charts.lines(panels("occlusion_share"), across="words to the noun", up="share"),
            "Occlusion: the noun's share of all influence. What the answer depends on.",
        ),
        Picture(
            charts.lines(
                panels("jacobian_value"), across="words to the noun", up="norm", log_up=True
            ),
            "Gradient path: norm of the derivative at the noun. Where it vanishes the answer may "
            "still depend on the noun.",
        ),
        Picture(
            charts.lines(
                accuracy, across="words to the noun", up="right answers", dashed={"guessing": 0.1}
            ),
            "Accuracy of the trained models.",
        ),
    ]


SECTION = Section(
    "distance",
    "How far back?",
    "How do accuracy, dependence and gradient change with the distance of the asked noun?",
    measure,
    sentences,
    pictures,
)
