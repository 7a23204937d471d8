"""The trained weights: where they lie, and reading and writing them."""

from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save
from torch import nn

from seqlens_zoo.bodies import BodyName
from seqlens_zoo.tasks import ANTECEDENT, TASKS, Task, TaskName

# Weights are not part of the installed package: they lie beside it in the checkout, in a folder
# for each task.
WEIGHTS: Final = Path(__file__).parents[1] / "weights"


class WeightsNotFoundError(FileNotFoundError):
    """The trained weights are not where they should be."""


def save_body(task: Task, body: BodyName, model: nn.Module, weights_dir: Path = WEIGHTS) -> None:
    """Write the parameters of a trained model, its tokenizer and its labels."""
    folder = weights_dir / task.name
    folder.mkdir(parents=True, exist_ok=True)
    # Not save_file: its files can be read by their owner alone.
    (folder / f"{body}.safetensors").write_bytes(save(model.state_dict()))
    task.save_text_files(folder)


@cache
def load_body(
    body: BodyName, task: TaskName = ANTECEDENT.name, weights_dir: Path = WEIGHTS
) -> nn.Module:
    """The trained model in evaluation mode, read once; treat it as read-only.

    Raises WeightsNotFoundError when `weights_dir` has no such model.
    """
    path = weights_dir / task / f"{body}.safetensors"
    if not path.is_file():
        raise WeightsNotFoundError(
            f"{path} is missing. The example models need a checkout of the repository, with its "
            f"folder models/weights; `python -m seqlens_zoo.train --task {task} --body {body}` "
            "makes the file."
        )
    model = TASKS[task].new_model(body)
    model.load_state_dict(load_file(path))
    return model.eval().requires_grad_(False)


def reference(
    body: BodyName, sequences: list[list[int]], weights_dir: Path = WEIGHTS
) -> NDArray[np.float32]:
    """Logits [number of sequences, labels] of the antecedent task's model in eager PyTorch.

    Each sequence is alone and unpadded.
    """
    return np.stack(references(ANTECEDENT, body, sequences, weights_dir))


def references(
    task: Task, body: BodyName, sequences: list[list[int]], weights_dir: Path = WEIGHTS
) -> list[NDArray[np.float32]]:
    """Logits of each sequence, alone and unpadded, in eager PyTorch.

    [labels], or [length, labels] where the model answers at every position.
    """
    model = load_body(body, task.name, weights_dir)
    given = [{"tokens": [tokens], "lengths": [len(tokens)]} for tokens in sequences]
    return [
        model(*(torch.tensor(inputs[name]) for name in task.inputs))[0].numpy() for inputs in given
    ]
