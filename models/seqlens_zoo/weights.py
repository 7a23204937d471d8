"""The trained weights: where they lie, and reading and writing them."""

from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save
from torch import nn

from seqlens_zoo.antecedent import LABELS, VOCABULARY, tokenizer
from seqlens_zoo.bodies import BodyName, SequenceClassifier

# Weights are not part of the installed package: they lie beside it in the checkout.
WEIGHTS: Final = Path(__file__).parents[1] / "weights"


class WeightsNotFoundError(FileNotFoundError):
    """The trained weights are not where they should be."""


def new_model(body: BodyName) -> SequenceClassifier:
    """An untrained model of the antecedent task; torch's global seed decides its parameters."""
    return SequenceClassifier(body, vocabulary=len(VOCABULARY), labels=len(LABELS))


def save_body(body: BodyName, model: nn.Module, weights_dir: Path = WEIGHTS) -> None:
    """Write the parameters of a trained model, its tokenizer and its labels."""
    weights_dir.mkdir(parents=True, exist_ok=True)
    # Not save_file: its files can be read by their owner alone.
    (weights_dir / f"{body}.safetensors").write_bytes(save(model.state_dict()))
    save_text_files(weights_dir)


def save_text_files(folder: Path) -> None:
    """Write `tokenizer.json` and `labels.txt` (one label a line, in the order of the logits)."""
    tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "labels.txt").write_text("".join(f"{label}\n" for label in LABELS))


@cache
def load_body(body: BodyName, weights_dir: Path = WEIGHTS) -> SequenceClassifier:
    """The trained model in evaluation mode, read once; treat it as read-only.

    Raises WeightsNotFoundError when `weights_dir` has no such model.
    """
    path = weights_dir / f"{body}.safetensors"
    if not path.is_file():
        raise WeightsNotFoundError(
            f"{path} is missing. The example models need a checkout of the repository, with its "
            f"folder models/weights; `python -m seqlens_zoo.train --body {body}` makes the file."
        )
    model = new_model(body)
    model.load_state_dict(load_file(path))
    return model.eval().requires_grad_(False)


def reference(
    body: BodyName, sequences: list[list[int]], weights_dir: Path = WEIGHTS
) -> NDArray[np.float32]:
    """Logits [number of sequences, labels] of eager PyTorch, each sequence alone and unpadded."""
    model = load_body(body, weights_dir)
    rows = [
        model(torch.tensor([tokens]), torch.tensor([len(tokens)])).numpy() for tokens in sequences
    ]
    return np.concatenate(rows)
