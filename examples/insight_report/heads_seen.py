"""(c) How many different patterns do 1, 2, 4 and 8 heads show, at equal cost?"""

from itertools import pairwise

import numpy as np

from insight_report import charts
from insight_report.section import Figures, Picture, Section
from insight_report.words import listed, percent
from seqlens_client import Client
from seqlens_zoo.antecedent import AntecedentText, generate
from seqlens_zoo.heads import HEADS, WIDTH

TEXTS = 40


def measure(client: Client) -> Figures:
    rng = np.random.default_rng(17)
    texts = [generate(rng, distance=int(d)) for d in rng.integers(2, 40, TEXTS)]
    parameters = 3 * WIDTH * WIDTH
    return {
        "parameters": parameters,
        "models": {str(heads): _patterns(client, heads, texts) for heads in HEADS},
        "zoo": _zoo_patterns(client, [text.text for text in texts]),
    }


def _patterns(client: Client, heads: int, texts: list[AntecedentText]) -> Figures:
    model = f"heads-{heads}"
    maps = client.attention(model, [text.text for text in texts], measures=True, outputs=True)
    labels = client.describe(model).labels
    measures = [each.measures[0] for each in maps]
    given = [labels[int(each.result.output.argmax())] for each in maps]
    return {
        "width": WIDTH // heads,
        "patterns": float(np.mean([m.patterns for m in measures])),
        "entropy": np.mean([m.entropy for m in measures], axis=0).tolist(),
        "mean_distance": np.mean([m.mean_distance for m in measures], axis=0).tolist(),
        "similarity": np.mean([m.similarity for m in measures], axis=0).tolist(),
        "accuracy": float(np.mean([g == t.answer for g, t in zip(given, texts, strict=True)])),
    }


def _zoo_patterns(client: Client, texts: list[str]) -> Figures:
    maps = client.attention("transformer-onnx", texts, measures=True)
    layers = [[each.measures[n].patterns for each in maps] for n in range(len(maps[0]))]
    return {"heads": len(maps[0].maps[0].heads), "patterns": [float(np.mean(x)) for x in layers]}


def sentences(figures: Figures) -> list[str]:
    models = figures["models"]
    told = [
        f"All have {figures['parameters']:,} parameters in query, key and value: "
        + listed([f"{n} of {one['width']}" for n, one in models.items()])
        + "."
    ]
    for heads, one in models.items():
        what = "head shows" if heads == "1" else "heads show"
        told.append(
            f"{heads} {what} {one['patterns']:.2f} different patterns (1 would mean that all are "
            f"alike), and the model is right in {percent(one['accuracy'])} of the texts."
        )
    counts = [one["patterns"] for one in models.values()]
    more = all(a <= b for a, b in pairwise(counts))
    told.append(
        "More heads show more patterns here, but fewer than there are heads."
        if more and counts[-1] < int(list(models)[-1])
        else "More heads do not always show more patterns here."
    )
    zoo = figures["zoo"]
    told.append(
        f"The zoo's Transformer, with {zoo['heads']} heads a layer, shows "
        + listed([f"{count:.2f} in layer {layer}" for layer, count in enumerate(zoo["patterns"])])
        + "."
    )
    return told


def pictures(figures: Figures) -> list[Picture]:
    models = figures["models"]
    heads = [int(name) for name in models]
    counts = [one["patterns"] for one in models.values()]
    drawn = {"one layer, equal cost": {"patterns": (heads, counts), "heads": (heads, heads)}}
    caption = "Different patterns by number of heads, and the number of heads itself."
    return [Picture(charts.lines(drawn, across="heads", up="patterns"), caption)]


SECTION = Section(
    "heads",
    "Do more heads see more?",
    "How many different patterns do 1, 2, 4 and 8 heads show, at the same number of parameters?",
    measure,
    sentences,
    pictures,
)
