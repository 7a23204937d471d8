"""Sessions of ONNX Runtime: how they are opened, how they are run, and what their errors mean."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, StringStringEntryProto, TensorProto
from onnxruntime import InferenceSession, OrtValue, RunOptions, SessionOptions

from seqlens.backends.base import Device
from seqlens.errors import BackendFailed, InvalidRequest, ModelRejected
from seqlens.sequences import Array, Tensors

_SILENT = 4  # severity: probes fail on purpose, and every failure comes back as an exception
_EXTERNAL_FOLDER = "session.model_external_initializers_file_folder_path"
# A fusion whose CPU kernel takes several times as long as what it replaces.
_SLOW_FUSIONS = ["SkipLayerNormFusion"]
# Rearranges convolutions in float32 only, and takes the whole process down on recurrent layers in
# float16 (ONNX Runtime 1.32 on x86).
_CRASHES_ON_HALVES = ["NchwcTransformer"]
_SMALLEST_SHARED = 256  # elements; what is smaller may be a shape, which must be readable
_SHARED_TYPES = frozenset(
    {
        TensorProto.FLOAT,
        TensorProto.FLOAT16,
        TensorProto.DOUBLE,
        TensorProto.INT8,
        TensorProto.UINT8,
        TensorProto.INT32,
        TensorProto.INT64,
    }
)
_NOISE = (
    r"^\[ONNXRuntimeError\] : \d+ : \w+ : ",
    r"/\S+\.(?:cc|h|cpp):\d+ ",  # where in its sources
    r"(?:[\w:&*<> ]+ )?onnxruntime::[^()]*\([^()]*\)(?: const)? ",  # and in which function
)
_LONGEST_REASON = 300  # characters of the library's own words


@dataclass(frozen=True, slots=True)
class SharedWeights:
    """Weights that lie in memory once, however many sessions use them."""

    values: Mapping[str, OrtValue] = field(default_factory=dict)  # by initializer

    def give(self, options: SessionOptions) -> None:
        """Let the session that these options make read these instead of copies of its own."""
        # The first lets constants be folded, the second keeps the session from copying the rest.
        options.add_external_initializers(list(self.values), list(self.values.values()))
        for name, value in self.values.items():
            options.add_initializer(name, value)


def open_session(
    model: ModelProto, path: Path, device: Device, shared: SharedWeights | None = None
) -> InferenceSession:
    """A session of a model that was read from ``path``, near which its external data lies.

    ``shared`` holds the weights that the model only names. Raises ``ModelRejected``.
    """
    options = _session_options(path)
    try:
        if shared is not None:
            shared.give(options)
        return InferenceSession(
            model.SerializeToString(),
            options,
            providers=_providers(device),
            disabled_optimizers=_SLOW_FUSIONS + (_CRASHES_ON_HALVES if _has_halves(model) else []),
        )
    except Exception as error:  # ONNX Runtime raises a class of its own for each kind of failure
        raise ModelRejected(f"ONNX Runtime refuses {path.name}: {_refusal(str(error))}") from error


def _has_halves(model: ModelProto) -> bool:
    """Whether anything in a model's main graph is float16."""
    graph = model.graph
    values = (*graph.input, *graph.output, *graph.value_info)
    types = {tensor.data_type for tensor in graph.initializer}
    types |= {value.type.tensor_type.elem_type for value in values}
    return TensorProto.FLOAT16 in types


def share_weights(model: ModelProto) -> tuple[ModelProto, SharedWeights]:
    """The weights of a model's main graph, and the model with nothing but their names.

    The model given is used up.
    """
    inputs = {value.name for value in model.graph.input}  # these a caller may replace
    moved = {t.name: t for t in model.graph.initializer if t.name not in inputs and _movable(t)}
    values = {name: _move(tensor) for name, tensor in moved.items()}
    light = ModelProto()  # a message frees what it held only as a whole
    light.CopyFrom(model)
    return light, SharedWeights(values)


def _movable(tensor: TensorProto) -> bool:
    known = tensor.data_type in _SHARED_TYPES and not tensor.external_data
    return known and math.prod(tensor.dims) >= _SMALLEST_SHARED


def _move(tensor: TensorProto) -> OrtValue:
    # A copy of its own: memory of a parsed file is not aligned, and is to be freed.
    value = OrtValue.ortvalue_from_numpy(onnx.numpy_helper.to_array(tensor).copy())
    for part in ("raw_data", "float_data", "int32_data", "int64_data", "double_data"):
        tensor.ClearField(part)
    tensor.data_location = TensorProto.EXTERNAL
    entries = {"location": "shared", "offset": 0, "length": value.tensor_size_in_bytes()}
    tensor.external_data.extend(
        StringStringEntryProto(key=key, value=str(entry)) for key, entry in entries.items()
    )
    return value


def _session_options(path: Path) -> SessionOptions:
    """One thread a run: lanes bring the parallelism. External data lies beside the file."""
    options = SessionOptions()
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


def run_session(
    session: InferenceSession,
    outputs: Sequence[str],
    inputs: Tensors,
    options: RunOptions | None = None,
) -> dict[str, Array]:
    """The outputs named. Raises ``BackendFailed`` with the library's reason."""
    given = {name: _texts(name, a) if a.dtype.hasobject else a for name, a in inputs.items()}
    try:
        return dict(zip(outputs, session.run(outputs, given, options), strict=True))
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
