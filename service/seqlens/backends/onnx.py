"""The ONNX Runtime backend: one single-threaded session per model, shared by all lanes."""

from importlib import metadata
from pathlib import Path

from seqlens.backends.base import Engine, LoadOptions
from seqlens.errors import ModelRejected


class OnnxBackend:
    """Serves ``.onnx`` files; importing it imports neither onnx nor onnxruntime."""

    name = "onnxruntime"
    platform = "onnxruntime_onnx"
    suffixes = (".onnx",)

    def versions(self) -> dict[str, str]:
        """Versions of onnxruntime (of whichever flavour is installed) and onnx."""
        found: dict[str, str] = {}
        for name in ("onnxruntime", "onnxruntime-gpu", "onnx"):
            try:
                found[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                continue
        return found

    def load(self, path: Path, options: LoadOptions) -> Engine:
        """Read, inspect and load one file.

        Raises ``ModelRejected`` with a reason that helps, ``DeviceMissing`` for a device that is
        not there.
        """
        try:
            from seqlens.backends.onnx_engine import load
        except ImportError as error:
            raise ModelRejected(
                f"{path.name} needs onnx and onnxruntime ({error}): pip install 'seqlens[server]'"
            ) from error
        return load(path, options)
