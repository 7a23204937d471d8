"""Why an LSTM keeps a fact: its forget gates, word by word."""

import numpy as np

from insight_report import charts
from insight_report.section import Figures, Picture, Section
from insight_report.words import percent
from seqlens_client import Client
from seqlens_zoo.antecedent import KITTEN_SENTENCE

MODEL = "lstm-onnx"
KEPT = 0.5


def measure(client: Client) -> Figures:
    gates = client.gates(MODEL, KITTEN_SENTENCE, full=True)
    layers = []
    for layer in gates.layers:
        forget = layer.gate("forget").values
        # What is left at the end of what a cell held when "kitten" had been read.
        left = np.prod(forget[list(gates.tokens).index("kitten") + 1 :], axis=0)
        layers.append(
            {
                "layer": layer.layer,
                "units": layer.units,
                "forget_mean": layer.gate("forget").mean.tolist(),
                "left_mean": float(left.mean()),
                "left_largest": float(left.max()),
                "keeping_units": int((left > KEPT).sum()),
                "recomputed_error": layer.recomputed_error,
            }
        )
    return {"tokens": list(gates.tokens), "layers": layers}


def sentences(figures: Figures) -> list[str]:
    words = len(figures["tokens"]) - 1 - figures["tokens"].index("kitten")
    return [
        f'Layer {one["layer"]}: {words} words after "kitten" the average cell has kept '
        f"{percent(one['left_mean'])} of what it held then, and {one['keeping_units']} of "
        f"{one['units']} cells more than {percent(KEPT)}, at most {percent(one['left_largest'])}. "
        f"These gates give the model's own hidden states to {one['recomputed_error']:.1e}."
        for one in figures["layers"]
    ]


def pictures(figures: Figures) -> list[Picture]:
    rows = {f"layer {one['layer']}": one["forget_mean"] for one in figures["layers"]}
    return [
        Picture(
            charts.bars(figures["tokens"], rows, "mean"),
            "Forget gates of the LSTM over the kitten sentence: 1 keeps all, 0 forgets all.",
        )
    ]


SECTION = Section(
    "gates",
    "Why does an LSTM keep a fact?",
    "How open are its forget gates, and what is left of a cell's content?",
    measure,
    sentences,
    pictures,
)
