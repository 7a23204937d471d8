"""The file formats that models are exported to: how each is written, and run again."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn

from seqlens_zoo.tasks import Task

FormatName = Literal["onnx", "torchscript"]

# The task's inputs in their order (tokens int64 [batch, sequence], lengths int64 [batch]) to
# logits float32 [batch, labels] or [batch, sequence, labels]
Runner = Callable[..., NDArray[np.float32]]

OPSET: Final = 17


class ExportError(RuntimeError):
    """An export is not what it should be."""


@dataclass(frozen=True, slots=True)
class Format:
    """A file format."""

    file: str  # name inside a version's folder
    write: Callable[[Task, nn.Module, Path], None]
    load: Callable[[Task, Path], Runner]  # raises ExportError


def _write_onnx(task: Task, model: nn.Module, path: Path) -> None:
    examples = {"tokens": torch.tensor([[2, 3, 4]]), "lengths": torch.tensor([3])}
    with warnings.catch_warnings():
        # We stay with the TorchScript-based exporter: the newer one unrolls nn.RNN to the length
        # of the example. It warns of itself, and that its own parts will go.
        for message in ("You are using the legacy", "The feature will be removed"):
            warnings.filterwarnings("ignore", message, DeprecationWarning)
        # Said of every recurrent net, whatever the example; `export` checks other batch sizes.
        warnings.filterwarnings(
            "ignore", "Exporting a model to ONNX with a batch_size other", UserWarning
        )
        torch.onnx.export(
            model,
            tuple(examples[name] for name in task.inputs),
            path,
            dynamo=False,
            opset_version=OPSET,
            input_names=list(task.inputs),
            output_names=["logits"],
            dynamic_axes={name: dict(axes) for name, axes in task.axes.items()},
        )


def _load_onnx(task: Task, path: Path) -> Runner:
    _require_dynamic_axes(task, onnx.load(path).graph)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(*inputs: NDArray[np.int64]) -> NDArray[np.float32]:
        (logits,) = session.run(["logits"], dict(zip(task.inputs, inputs, strict=True)))
        return np.asarray(logits)

    return run


def _require_dynamic_axes(task: Task, graph: onnx.GraphProto) -> None:
    for value in (*graph.input, *graph.output):
        for axis, name in task.axes[value.name].items():
            found = value.type.tensor_type.shape.dim[axis]
            if found.dim_param != name:
                raise ExportError(
                    f"axis {axis} of {value.name!r}: got {found.dim_param or found.dim_value!r}, "
                    f"expected the dynamic axis {name!r}"
                )


def _write_torchscript(task: Task, model: nn.Module, path: Path) -> None:
    with _torchscript_deprecated():
        torch.jit.save(torch.jit.script(model), path)


def _load_torchscript(task: Task, path: Path) -> Runner:
    with _torchscript_deprecated():
        module = torch.jit.load(path)  # type: ignore[no-untyped-call]

    def run(*inputs: NDArray[np.int64]) -> NDArray[np.float32]:
        with torch.no_grad():
            return np.asarray(module(*map(torch.from_numpy, inputs)))

    return run


@contextmanager
def _torchscript_deprecated() -> Iterator[None]:
    """PyTorch discourages new TorchScript; we serve the TorchScript that people have."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
        yield


FORMATS: Final[dict[FormatName, Format]] = {
    "onnx": Format("model.onnx", _write_onnx, _load_onnx),
    "torchscript": Format("model.pt", _write_torchscript, _load_torchscript),
}
