"""ONNX models made in a test, served and opened up."""

from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import ModelProto

from seqlens.backends.base import Device, LoadOptions
from seqlens.backends.onnx_engine import OnnxEngine, load
from seqlens.backends.tapped import Look, Seen, TappedModel
from seqlens.graphs.trial import trial_inputs
from seqlens.sequences import Array


@dataclass(frozen=True)
class OpenedOnnx:
    """A serving engine and its model, opened up."""

    engine: OnnxEngine
    tapped: TappedModel

    def inputs(self, rows: int = 3, length: int = 7, seed: int = 0) -> dict[str, Array]:
        return trial_inputs(self.engine.anatomy, rows, length, seed=seed)

    def see(self, inputs: dict[str, Array], look: Look) -> Seen:
        return self.tapped.run(inputs, look)


def serve(model: ModelProto, folder: Path) -> OnnxEngine:
    """Load a model from a file in this folder, on one processor."""
    path = folder / "model.onnx"
    onnx.save(model, path)
    return load(path, LoadOptions(device=Device("cpu")))


def open_onnx(model: ModelProto, folder: Path) -> OpenedOnnx:
    """Serve a model and open it up."""
    engine = serve(model, folder)
    tapped = engine.tapped()
    assert tapped is not None
    return OpenedOnnx(engine, tapped)
