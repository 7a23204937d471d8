"""Reading ``.onnx`` files, with a reason that helps where a file is something else."""

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto, TensorProto

from seqlens.errors import ModelRejected

FileStamps = tuple[tuple[int, int], ...]  # bytes, and nanoseconds of the last change
_FOREIGN = (
    (b"PK\x03\x04", "a zip archive, as torch.save and torch.jit.save write: name it model.pt"),
    (b"version https://git-lfs", "a Git LFS pointer: fetch the file itself with git lfs pull"),
    (b"\x89HDF", "an HDF5 file, as Keras writes: export it to ONNX first"),
    (b"<!DOCTYPE", "a web page: the download went wrong"),
    (b"<html", "a web page: the download went wrong"),
    (b"\x1f\x8b", "a gzip archive: unpack it first"),
)


def read_file(path: Path) -> ModelProto:
    """Parse a model without its external data.

    Raises ``ModelRejected`` for files that are missing, empty, truncated or not ONNX, and for
    external data that is not there.
    """
    try:
        start = _first_bytes(path) if path.is_file() else None
    except OSError as error:
        raise ModelRejected(f"{path.name} cannot be read: {error.strerror}") from error
    if start is None:
        raise ModelRejected(f"{path} is not a file")
    if not start:
        raise ModelRejected(f"{path.name} is empty")
    for signature, what in _FOREIGN:
        if start.startswith(signature):
            raise ModelRejected(f"{path.name} is not an ONNX model but {what}")
    model = _parse(path)
    _check_external_data(model, path)
    return model


def file_stamps(path: Path, model: ModelProto) -> FileStamps:
    """Size and time of the last change of a model's file and of its external data."""
    names = {_external_data(tensor).get("location", "") for tensor in model.graph.initializer}
    files = [path, *(path.parent / name for name in sorted(names) if name)]
    try:
        stats = [file.stat() for file in files]
    except OSError as error:
        raise ModelRejected(f"{path.name} cannot be read: {error.strerror}") from error
    return tuple((stat.st_size, stat.st_mtime_ns) for stat in stats)


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(64)


def _parse(path: Path) -> ModelProto:
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError, RuntimeError) as error:
        size = path.stat().st_size
        raise ModelRejected(
            f"{path.name} is not an ONNX model, or only part of one ({size} bytes): it does not "
            "parse. Copy or export it again"
        ) from error
    if not model.graph.node or not model.graph.output or not model.opset_import:
        raise ModelRejected(f"{path.name} parses, but holds no graph: it is no ONNX model")
    return model


def _check_external_data(model: ModelProto, path: Path) -> None:
    for tensor in model.graph.initializer:
        entries = _external_data(tensor)
        location = entries.get("location")
        if location is None:
            continue
        data = path.parent / location
        if not data.is_file():
            raise ModelRejected(f"{path.name} keeps its weights in {location}, which is missing")
        needed = int(entries.get("offset", 0)) + int(entries.get("length", 0))
        if data.stat().st_size < needed:
            raise ModelRejected(
                f"{location} has {data.stat().st_size} bytes, but {path.name} needs {needed}: "
                "it is truncated, or belongs to another export"
            )


def _external_data(tensor: TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}
