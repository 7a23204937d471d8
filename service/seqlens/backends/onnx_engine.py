"""Loading an ONNX model into ONNX Runtime and running it."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
from onnx import ModelProto
from onnxruntime import InferenceSession

from seqlens.backends.base import Capabilities, Device, LoadOptions
from seqlens.backends.devices import choose_device
from seqlens.backends.onnx_file import FileStamps, file_stamps, read_file
from seqlens.backends.onnx_session import open_session, run_session
from seqlens.backends.onnx_tapped import OnnxTapped
from seqlens.backends.tapped import TappedModel
from seqlens.errors import BackendFailed, ModelRejected
from seqlens.graphs.anatomy import WIRED_FROM, ModelAnatomy
from seqlens.graphs.attention_masks import MASKS_SPREAD, repair_attention_masks
from seqlens.graphs.onnx_graph import read_onnx
from seqlens.graphs.probing import find_anatomy
from seqlens.graphs.recurrence import WiredModel, wire_lengths
from seqlens.graphs.trial import trial_inputs
from seqlens.sequences import Array, Tensors

_TOLERANCE = 1e-4  # relative; full lengths must not change an answer


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a model comes from, as it was when it was read."""

    path: Path
    device: Device
    stamps: FileStamps


class OnnxEngine:
    """One loaded model: one session that all lanes share, each run on its caller's thread."""

    def __init__(self, session: InferenceSession, anatomy: ModelAnatomy, source: _Source) -> None:
        self._session: InferenceSession | None = session
        self._outputs = [output.name for output in session.get_outputs()]
        self._source = source
        self.anatomy = anatomy
        self.capabilities = Capabilities(source.device, concurrent_runs=True)

    def run(self, inputs: Tensors) -> dict[str, Array]:
        """Run the model once; see ``seqlens.backends.base.Engine``."""
        if self._session is None:
            raise BackendFailed("the model is closed")
        return run_session(self._session, self._outputs, inputs)

    def tapped(self) -> TappedModel | None:
        """The same model, opened up; see ``seqlens.backends.base.Engine``."""
        source = self._source
        changed = ModelRejected(
            f"{source.path.name} has changed since it was loaded: reload the model to look inside "
            "it"
        )
        try:
            model, stamps = _read(source.path)
        except ModelRejected as error:  # it is gone, or no model any more
            raise changed from error
        if stamps != source.stamps:
            raise changed
        served = _as_served(model, self.anatomy)
        return OnnxTapped(served, self.anatomy, source.path, source.device)

    def close(self) -> None:
        """Free the session."""
        self._session = None


def load(path: Path, options: LoadOptions) -> OnnxEngine:
    """Read, inspect and load one file; see ``OnnxBackend.load``."""
    device = choose_device(
        options.device,
        _cuda_devices(),
        library="ONNX Runtime",
        advice="For CUDA, install onnxruntime-gpu in place of onnxruntime",
    )
    model, stamps = _read(path)
    source = _Source(path, device, stamps)
    if options.anatomy is not None:
        return _load_known(model, options.anatomy, source)
    spread = repair_attention_masks(model)
    model = model if spread is None else spread
    session = open_session(model, path, device)
    outputs = [output.name for output in session.get_outputs()]
    run = partial(run_session, session, outputs)
    anatomy = find_anatomy(read_onnx(model), run, options.overrides)
    if spread is not None:
        anatomy = replace(anatomy, findings=(*anatomy.findings, MASKS_SPREAD))
    engine = OnnxEngine(session, anatomy, source)
    wired = None if options.as_exported else wire_lengths(model, anatomy)
    return engine if wired is None else _wired_engine(engine, wired, source)


def _read(path: Path) -> tuple[ModelProto, FileStamps]:
    """The model, and what tells later whether its files are still those that were read."""
    model = read_file(path)
    return model, file_stamps(path, model)


def _load_known(model: ModelProto, anatomy: ModelAnatomy, source: _Source) -> OnnxEngine:
    """Load as an earlier load did, without a single trial run."""
    session = open_session(_as_served(model, anatomy), source.path, source.device)
    return OnnxEngine(session, anatomy, source)


def _as_served(model: ModelProto, anatomy: ModelAnatomy) -> ModelProto:
    """The graph that a session of this anatomy runs."""
    spread = repair_attention_masks(model)
    model = model if spread is None else spread
    wired = wire_lengths(model, anatomy) if WIRED_FROM in anatomy.details else None
    return model if wired is None else wired.model


def _wired_engine(plain: OnnxEngine, wired: WiredModel, source: _Source) -> OnnxEngine:
    """The model with lengths wired in, if full lengths change no answer; else as it was."""
    try:
        session = open_session(wired.model, source.path, source.device)
        engine = OnnxEngine(session, wired.anatomy, source)
        same = _answers_alike(plain, engine)
    except (ModelRejected, BackendFailed):
        same = False
    if same:
        plain.close()
        return engine
    finding = "lengths could not be wired in: its recurrent layers do not run over the positions"
    plain.anatomy = replace(plain.anatomy, findings=(*plain.anatomy.findings, finding))
    return plain


def _answers_alike(plain: OnnxEngine, wired: OnnxEngine) -> bool:
    """Whether both give the same answers at full length, for two shapes."""
    for rows, length in ((2, 7), (3, 12)):
        inputs = trial_inputs(wired.anatomy, rows, length)
        known = {i.name for i in plain.anatomy.inputs}
        before = plain.run({n: a for n, a in inputs.items() if n in known})
        after = wired.run(inputs)
        if not all(_close(before[name], after[name]) for name in before):
            return False
    return True


def _close(before: Array, after: Array) -> bool:
    if before.dtype.kind != "f":
        return bool(np.array_equal(before, after))
    return bool(np.allclose(before, after, rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True))


def _cuda_devices() -> int:
    """CUDA devices that ONNX Runtime itself can use."""
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return 0
    kinds = [device.device.type for device in onnxruntime.get_ep_devices()]
    return sum(kind == onnxruntime.OrtHardwareDeviceType.GPU for kind in kinds)
