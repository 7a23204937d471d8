"""(a) What is *it*? The heads that tie the last "it" to "kitten", found by search."""

import numpy as np

from insight_report import charts
from insight_report.prepare import MINILM
from insight_report.section import Figures, Picture, Section
from insight_report.words import listed, percent
from seqlens_client import AttentionMap, Client
from seqlens_zoo.antecedent import KITTEN_SENTENCE, KITTEN_SENTENCE_IN_FULL

ZOO = ("transformer-onnx", "transformer-torchscript")
STRONG = 0.5  # more weight on one word than on all others together


def measure(client: Client) -> Figures:
    found = {model: _ties(client.attention(model, KITTEN_SENTENCE)) for model in ZOO}
    found[MINILM] = _ties(client.attention(MINILM, KITTEN_SENTENCE_IN_FULL))
    answers = {}
    for model in ("rnn-onnx", "lstm-onnx", "transformer-onnx"):
        logits = client.infer(model, KITTEN_SENTENCE).output
        answers[model] = client.describe(model).labels[int(logits.argmax())]
    return {"models": found, "answers": answers}


def _ties(found: AttentionMap) -> Figures:
    """Weight of the last "it" on "kitten", at each head of each layer."""
    tokens = list(found.tokens)
    query = len(tokens) - 1 - tokens[::-1].index("it")
    key = tokens.index("kitten")
    weights = [[float(w) for w in site.weights[:, query, key]] for site in found]
    ties = [(w, layer, head) for layer, row in enumerate(weights) for head, w in enumerate(row)]
    best, layer, head = max(ties)
    strong = sorted((site, number) for weight, site, number in ties if weight > STRONG)
    return {
        "tokens": tokens,
        "words_between": query - key,
        "weights": weights,  # [layer][head]
        "strong": [list(tie) for tie in strong],
        "best": {"weight": best, "layer": layer, "head": head},
        "best_row": [float(w) for w in list(found)[layer].weights[head, query]],
        "even_share": 1 / len(tokens),
        "row_sum_error": max(site.site.proof.row_sum_error or 0.0 for site in found),
        "measured": all(site.site.measured for site in found),
    }


def sentences(figures: Figures) -> list[str]:
    told = []
    for model, one in figures["models"].items():
        best = one["best"]
        heads = sum(len(row) for row in one["weights"])
        strong = len(one["strong"])
        told.append(
            f"{model}: {strong} of {heads} heads put more than {percent(STRONG)} of the last "
            f'"it" on "kitten", {one["words_between"]} words before it; the strongest is head '
            f"{best['head']} of layer {best['layer']} (counted from 0) with {best['weight']:.3f}, "
            f"where an even spread would give {one['even_share']:.3f}."
        )
    onnx, torchscript = (np.array(figures["models"][model]["weights"]) for model in ZOO)
    apart = np.abs(onnx - torchscript).max()
    told.append(
        f"In these weights the ONNX and the TorchScript export differ by {apart:.1e} at most."
    )
    right = [model for model, answer in figures["answers"].items() if answer == "kitten"]
    told.append(
        f'Asked what "it" is, {listed(right)} answer{"s" if len(right) == 1 else ""} "kitten".'
        if right
        else 'Asked what "it" is, no model answers "kitten".'
    )
    return told


def pictures(figures: Figures) -> list[Picture]:
    models = figures["models"]
    fields = {model: one["weights"] for model, one in models.items()}
    drawn = [
        Picture(charts.heads(fields, 'weight on "kitten"'), 'Weight of the last "it" on "kitten".')
    ]
    for model in (ZOO[0], MINILM):
        one, best = models[model], models[model]["best"]
        name = f"layer {best['layer']}, head {best['head']}"
        drawn.append(
            Picture(
                charts.bars(one["tokens"], {name: one["best_row"]}, "weight"),
                f'{model}: what the last "it" looks at, in its strongest head.',
            )
        )
    return drawn


SECTION = Section(
    "kitten",
    "What is it?",
    'Which heads tie the last "it" of the kitten sentence to "kitten"?',
    measure,
    sentences,
    pictures,
)
