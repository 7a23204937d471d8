"""Loading an ONNX model into ONNX Runtime and running it."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
from onnx import ModelProto

from seqlens.backends.base import Capabilities, Device, LoadOptions
from seqlens.backends.devices import choose_device
from seqlens.backends.onnx_file import read_file
from seqlens.backends.tapped import TappedModel
from seqlens.errors import BackendFailed, InvalidRequest, ModelRejected
from seqlens.graphs.anatomy import WIRED_FROM, ModelAnatomy
from seqlens.graphs.onnx_graph import read_onnx
from seqlens.graphs.probing import find_anatomy
from seqlens.graphs.recurrence import WiredModel, wire_lengths
from seqlens.graphs.trial import trial_inputs
from seqlens.sequences import Array, Tensors

_SILENT = 4  # severity: probes fail on purpose, and every failure comes back as an exception
_EXTERNAL_FOLDER = "session.model_external_initializers_file_folder_path"
# A fusion whose CPU kernel takes several times as long as what it replaces.
_SLOW_FUSIONS = ["SkipLayerNormFusion"]
_TOLERANCE = 1e-4  # relative; full lengths must not change an answer
_NOISE = (
    r"^\[ONNXRuntimeError\] : \d+ : \w+ : ",
    r"/\S+\.(?:cc|h|cpp):\d+ ",  # where in its sources
    r"(?:[\w:&*<> ]+ )?onnxruntime::[^()]*\([^()]*\)(?: const)? ",  # and in which function
)
_LONGEST_REASON = 300  # characters of the library's own words


class OnnxEngine:
    """One loaded model: one session that all lanes share, each run on its caller's thread."""

    def __init__(
        self, session: onnxruntime.InferenceSession, anatomy: ModelAnatomy, device: Device
    ) -> None:
        self._session: onnxruntime.InferenceSession | None = session
        self._outputs = [output.name for output in session.get_outputs()]
        self.anatomy = anatomy
        self.capabilities = Capabilities(device, concurrent_runs=True)

    def run(self, inputs: Tensors) -> dict[str, Array]:
        """Run the model once; see ``seqlens.backends.base.Engine``."""
        if self._session is None:
            raise BackendFailed("the model is closed")
        return _run(self._session, self._outputs, inputs)

    def tapped(self) -> TappedModel | None:
        """The same model, opened up; see ``seqlens.backends.base.Engine``."""
        return None

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
    model = read_file(path)
    if options.anatomy is not None:
        return _load_known(model, options.anatomy, path, device)
    session = _open(model, path, device)
    outputs = [output.name for output in session.get_outputs()]
    run: Callable[[Tensors], dict[str, Array]] = lambda inputs: _run(session, outputs, inputs)  # noqa: E731
    anatomy = find_anatomy(read_onnx(model), run, options.overrides)
    engine = OnnxEngine(session, anatomy, device)
    wired = None if options.as_exported else wire_lengths(model, anatomy)
    return engine if wired is None else _wired_engine(engine, wired, path, device)


def _load_known(model: ModelProto, anatomy: ModelAnatomy, path: Path, device: Device) -> OnnxEngine:
    """Load as an earlier load did, without a single trial run."""
    wired = wire_lengths(model, anatomy) if WIRED_FROM in anatomy.details else None
    session = _open(model if wired is None else wired.model, path, device)
    return OnnxEngine(session, anatomy, device)


def _wired_engine(plain: OnnxEngine, wired: WiredModel, path: Path, device: Device) -> OnnxEngine:
    """The model with lengths wired in, if full lengths change no answer; else as it was."""
    try:
        engine = OnnxEngine(_open(wired.model, path, device), wired.anatomy, device)
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


def _open(model: ModelProto, path: Path, device: Device) -> onnxruntime.InferenceSession:
    try:
        return onnxruntime.InferenceSession(
            model.SerializeToString(),
            _session_options(path),
            providers=_providers(device),
            disabled_optimizers=_SLOW_FUSIONS,
        )
    except Exception as error:  # ONNX Runtime raises a class of its own for each kind of failure
        raise ModelRejected(f"ONNX Runtime refuses {path.name}: {_refusal(str(error))}") from error


def _session_options(path: Path) -> onnxruntime.SessionOptions:
    """One thread a run: lanes bring the parallelism. External data lies beside the file."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = _SILENT
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.add_session_config_entry(_EXTERNAL_FOLDER, str(path.parent.resolve()))
    return options


def _providers(device: Device) -> list[str | tuple[str, dict[str, str]]]:
    if device.kind != "cuda":
        return ["CPUExecutionProvider"]
    cuda = ("CUDAExecutionProvider", {"device_id": str(device.index)})
    return [cuda, "CPUExecutionProvider"]


def _cuda_devices() -> int:
    """CUDA devices that ONNX Runtime itself can use."""
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return 0
    kinds = [device.device.type for device in onnxruntime.get_ep_devices()]
    return sum(kind == onnxruntime.OrtHardwareDeviceType.GPU for kind in kinds)


def _run(
    session: onnxruntime.InferenceSession, outputs: list[str], inputs: Tensors
) -> dict[str, Array]:
    given = {name: _texts(name, a) if a.dtype.hasobject else a for name, a in inputs.items()}
    try:
        return dict(zip(outputs, session.run(outputs, given), strict=True))
    except Exception as error:
        raise BackendFailed(f"the model refuses this input: {_reason(str(error))}") from error


def _texts(name: str, array: Array) -> Array:
    """Elements as the library wants them: of bytes it would take what Python prints of them."""
    try:
        texts = [one.decode() if isinstance(one, bytes) else one for one in array.ravel().tolist()]
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"inputs.{name}", got=f"bytes that are no UTF-8: {error.reason}", expected="texts"
        ) from None
    return np.array(texts, object).reshape(array.shape)


def _reason(text: str) -> str:
    """The library's own reason without its error codes, source files and function names."""
    last = text.rpartition("Status Message: ")[2]
    for noise in _NOISE:
        last = re.sub(noise, "", last)
    return " ".join(last.split())[:_LONGEST_REASON]


def _refusal(text: str) -> str:
    reason = _reason(text)
    if "opset" in text and "is under development" in text:
        return f"{reason} Export with a lower opset, or install a newer onnxruntime"
    if "is not a registered function/op" in text or "No Op registered" in text:
        return f"{reason} The operator is unknown to this onnxruntime: export with another opset"
    if "Batchwise recurrent" in text:
        return f"{reason} Export recurrent operators with layout 0, time before batch"
    return reason
