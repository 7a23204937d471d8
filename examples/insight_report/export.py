"""Models of the report as parts of a model repository."""

import warnings
from pathlib import Path

from torch import nn

from seqlens_zoo.formats import FORMATS
from seqlens_zoo.tasks import Task

_FORM = FORMATS["onnx"]


def exported(folder: Path) -> bool:
    """Whether the model of a folder is there already."""
    return (folder / "1" / _FORM.file).exists()


def write(task: Task, model: nn.Module, folder: Path) -> str:
    """Export a model with the inputs and axes of a task; returns its name."""
    version = folder / "1"
    version.mkdir(parents=True, exist_ok=True)
    unfinished = version / "unfinished"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about itself
        _FORM.write(task, model, unfinished)
    unfinished.replace(version / _FORM.file)
    return folder.name
