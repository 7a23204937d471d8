"""``config.pbtxt``: a model as Triton Inference Server has it configured, in our own terms.

Field by field after Triton's docs/user_guide/model_configuration.md. What it states becomes keys
of ``model.yaml`` and the declared tensors; what has no counterpart becomes a note.
"""

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import json_format, text_format
from google.protobuf.internal.containers import RepeatedScalarFieldContainer

from seqlens.backends.plugins import FoundBackends, find_all
from seqlens.errors import ModelRejected
from seqlens.graphs.signature import Signature, StatedTensor
from seqlens.repository.folder import TRITON_FILE
from seqlens.repository.triton_notes import notes_of
from seqlens_wire.pb import model_config_pb2 as pb

# Triton's names of backends and platforms for ours.
_BACKENDS = {
    "onnxruntime": "onnxruntime",
    "onnxruntime_onnx": "onnxruntime",
    "pytorch": "torchscript",
    "pytorch_libtorch": "torchscript",
    "pytorch_torchscript": "torchscript",
}
_DEVICES = {pb.ModelInstanceGroup.KIND_CPU: "cpu", pb.ModelInstanceGroup.KIND_GPU: "cuda"}
_UNKNOWN_FIELD = re.compile(
    r'Message type "(?P<message>[\w.]+)" has no field named "(?P<field>.*)"'
)
_POSITION = re.compile(r"^\d+:\d+ : ('.*?': )?", re.DOTALL)
_PACKAGE = re.compile(r"\bseqlens\.inference\.")
_LONGEST_REASON = 300  # characters of the library's own words


@dataclass(frozen=True, slots=True)
class TritonConfig:
    """What a configuration says: keys as in ``model.yaml``, tensors, and remarks for people."""

    keys: dict[str, Any]
    signature: Signature | None  # None: nothing is declared, all is as it is found
    notes: tuple[str, ...]


def read_triton(path: Path) -> pb.ModelConfig | None:
    """Read ``config.pbtxt``; None where there is none.

    Raises ``ModelRejected`` naming the file, the line and the field.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise ModelRejected(f"{path.name} is not UTF-8 text: {error.reason}") from error
    except OSError as error:
        raise ModelRejected(f"{path.name} cannot be read: {error.strerror}") from error
    try:
        return text_format.Parse(text, pb.ModelConfig())
    except text_format.ParseError as error:
        line = f" line {error.GetLine()}" if error.GetLine() else ""
        raise ModelRejected(f"{path.name}{line}: {_explained(str(error))}") from error
    except RecursionError as error:
        raise ModelRejected(f"{path.name}: messages are nested too deep") from error


def parse_triton_json(text: str, source: str) -> pb.ModelConfig:
    """Parse a configuration in JSON, as a load call may bring it; ``source`` names it in errors.

    Raises ``ModelRejected`` naming the field.
    """
    if not text.lstrip().startswith("{"):  # the library takes an empty list for a message
        raise ModelRejected(f"{source}: expected a JSON object")
    try:
        return json_format.Parse(text, pb.ModelConfig())
    except (json_format.ParseError, RecursionError, UnicodeError) as error:
        raise ModelRejected(f"{source}: {_explained(str(error))}") from error


def from_triton(
    config: pb.ModelConfig,
    *,
    name: str,
    backends: FoundBackends | None = None,
    source: str = TRITON_FILE,
) -> TritonConfig:
    """What a configuration means here.

    ``name`` is that of the model's folder, ``backends`` are those that serve (None: all that are
    registered), ``source`` says in errors and notes where the configuration is from. Raises
    ``ModelRejected`` for another name, a backend that is not served, an ensemble, decoupled
    answers, and values out of range.
    """
    if config.name not in ("", name):
        raise ModelRejected(
            f"{source}: name is {config.name!r}, but the model's folder is called {name!r}"
        )
    _refuse(config, source)
    keys = {
        "backend": _backend(config, source, backends or find_all()),
        "device": _device(config),
        "file": config.default_model_filename or None,
        "labels": next((o.label_filename for o in config.output if o.label_filename), None),
        "version_policy": _version_policy(config.version_policy),
        "scheduler": _scheduler(config),
    }
    return TritonConfig(
        keys={key: value for key, value in keys.items() if value},
        signature=_signature(config, source),
        notes=tuple(f"{source}: {note}" for note in notes_of(config)),
    )


def _explained(text: str) -> str:
    """The library's reason in the words of the file, with the field that was likely meant."""
    unknown = _UNKNOWN_FIELD.search(text)
    if unknown is not None:
        return _unknown_field(unknown["message"], unknown["field"])
    reason = _PACKAGE.sub("", _POSITION.sub("", text))
    return " ".join(reason.split())[:_LONGEST_REASON]


def _unknown_field(message: str, field: str) -> str:
    pool = pb.DESCRIPTOR.pool
    known = list(pool.FindMessageTypeByName(message).fields_by_name)
    near = difflib.get_close_matches(field, known, n=1)
    meant = f"; did you mean {near[0]!r}?" if near else ""
    return f"{_PACKAGE.sub('', message)} has no field {field!r}{meant}"


def _refuse(config: pb.ModelConfig, source: str) -> None:
    """Raise ``ModelRejected`` for what this server does not do at all."""
    if config.HasField("ensemble_scheduling"):
        raise ModelRejected(
            f"{source}: ensemble_scheduling: ensembles are not served; serve each model by itself"
        )
    if config.model_transaction_policy.decoupled:
        raise ModelRejected(
            f"{source}: model_transaction_policy.decoupled: every request has exactly one answer "
            "here; leave it out"
        )
    if config.max_batch_size < 0:
        raise ModelRejected(
            f"{source}: max_batch_size is {config.max_batch_size}; expected 0 or more"
        )


def _backend(config: pb.ModelConfig, source: str, backends: FoundBackends) -> str | None:
    """Our name of the backend; the platform counts where no backend is named."""
    stated = config.backend or config.platform
    if not stated:
        return None
    name = _BACKENDS.get(stated, stated)
    if name not in backends.working and name not in backends.broken:
        field = "backend" if config.backend else "platform"
        raise ModelRejected(
            f"{source}: {field} {stated!r} is not served; served are onnxruntime, pytorch "
            f"(TorchScript) and what is installed: {backends}"
        )
    return name


def _device(config: pb.ModelConfig) -> str | None:
    """The device of the first group that names one."""
    for group in config.instance_group:
        kind = _DEVICES.get(group.kind)
        if kind is not None:
            return f"cuda:{group.gpus[0]}" if kind == "cuda" and group.gpus else kind
    return None


def _version_policy(policy: pb.ModelVersionPolicy) -> str | dict[str, Any] | None:
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return "all"
    if choice == "specific":
        return {"specific": list(policy.specific.versions)}
    return {"latest": policy.latest.num_versions or 1} if choice == "latest" else None


def _scheduler(config: pb.ModelConfig) -> dict[str, Any]:
    """Bounds of batches and of the waiting room, and what requests get that ask for nothing."""
    policy = config.dynamic_batching.default_queue_policy
    keys = {
        "max_batch_sequences": config.max_batch_size,
        "max_waiting_sequences": policy.max_queue_size,
        "default_timeout_seconds": policy.default_timeout_microseconds / 1e6,
        "default_priority": config.dynamic_batching.default_priority_level,
    }
    return {key: value for key, value in keys.items() if value}


def _signature(config: pb.ModelConfig, source: str) -> Signature | None:
    if not (config.input or config.output or config.max_batch_size):
        return None
    batched = config.max_batch_size > 0
    signature = Signature(
        inputs=tuple(_tensor(one, batched) for one in config.input),
        outputs=tuple(_tensor(one, batched) for one in config.output),
        batched=batched,
        source=source,
    )
    for kind, tensors in (("input", signature.inputs), ("output", signature.outputs)):
        for problem in _problems([tensor.name for tensor in tensors]):
            raise ModelRejected(f"{source}: {kind} {problem}")
    return signature


def _problems(names: list[str]) -> Iterator[str]:
    for place, name in enumerate(names):
        if not name:
            yield f"{place} has no name"
        elif name in names[:place]:
            yield f"{name!r} is declared twice"


def _tensor(stated: pb.ModelInput | pb.ModelOutput, batched: bool) -> StatedTensor:
    datatype = pb.DataType.Name(stated.data_type).removeprefix("TYPE_")
    reshaped = stated.HasField("reshape")
    # After a reshape even no size at all is a shape: one number for each row.
    known = reshaped or bool(stated.dims)
    sizes = stated.reshape.shape if reshaped else stated.dims
    return StatedTensor(
        name=stated.name,
        datatype={"INVALID": None, "STRING": "BYTES"}.get(datatype, datatype),
        shape=_shape(sizes, batched) if known else None,
        label_file=stated.label_filename if isinstance(stated, pb.ModelOutput) else "",
    )


def _shape(sizes: "RepeatedScalarFieldContainer[int]", batched: bool) -> tuple[int, ...]:
    return (-1, *sizes) if batched else tuple(sizes)
