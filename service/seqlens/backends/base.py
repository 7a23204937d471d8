"""What a backend has to offer: the whole contract, in plain data and a handful of methods."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from seqlens.backends.tapped import TappedModel
from seqlens.graphs.anatomy import AnatomyOverrides, ModelAnatomy
from seqlens.graphs.signature import Signature
from seqlens.sequences import Array, Tensors


@dataclass(frozen=True, slots=True)
class Device:
    """Where a model runs. Parsed from ``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""

    kind: str = "auto"  # auto, cpu or cuda
    index: int = 0

    def __str__(self) -> str:
        return f"{self.kind}:{self.index}" if self.kind == "cuda" else self.kind


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can do, as data: callers ask here and never test for a class."""

    device: Device  # the one really used, never auto
    concurrent_runs: bool  # several lanes may call run at the same time
    keeps_state: bool = False  # the file keeps state in attributes; run works on a fresh copy


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How to load a model."""

    device: Device = Device()
    overrides: AnatomyOverrides = field(default_factory=AnatomyOverrides)
    anatomy: ModelAnatomy | None = None  # known from an earlier load: no probing is needed
    as_exported: bool = False  # no sequence lengths are wired into the graph
    signature: Signature | None = None  # declared tensors, for files that name or type none


@runtime_checkable
class Engine(Protocol):
    """One loaded model. ``run`` may be called from any thread and keeps nothing between calls."""

    @property
    def capabilities(self) -> Capabilities:
        """What this engine can do."""

    @property
    def anatomy(self) -> ModelAnatomy:
        """The anatomy of the graph as it is served."""

    def run(self, inputs: Tensors) -> dict[str, Array]:
        """Run the model once.

        ``inputs`` holds every input of ``anatomy`` in the model's own layout (batch axis and
        padding included); the answer maps each output's name to its array. Raises
        ``BackendFailed`` with the library's reason when the model refuses.
        """

    def tapped(self) -> TappedModel | None:
        """The same model, opened up to look inside; None: this backend cannot.

        Shares weights with the engine where it can, and must be closed by the caller, who may do
        so after the engine. Raises ``ModelRejected`` when the file has changed since it was
        loaded or cannot be opened this way.
        """

    def close(self) -> None:
        """Free what the engine holds. The engine is not used afterwards."""


@runtime_checkable
class Backend(Protocol):
    """A kind of exported model. Registered by entry point in the group ``seqlens.backends``."""

    name: str  # as in model.yaml and metrics, e.g. "onnxruntime"
    platform: str  # as in ModelMetadata, e.g. "onnxruntime_onnx"
    suffixes: tuple[str, ...]  # file endings that it reads, e.g. (".onnx",)

    def versions(self) -> dict[str, str]:
        """Versions of the libraries whose change could change an answer."""

    def load(self, path: Path, options: LoadOptions) -> Engine:
        """Read, inspect and load one file.

        Raises ``ModelRejected`` with a reason that helps, ``DeviceMissing`` for a device that
        is not there.
        """
