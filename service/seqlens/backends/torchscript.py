"""The TorchScript backend as the server sees it: importing it does not import torch."""

from importlib import metadata
from pathlib import Path

from seqlens.backends.base import Engine, LoadOptions
from seqlens.errors import ModelRejected


class TorchScriptBackend:
    """Serves files written by ``torch.jit.save``, scripted or traced."""

    name = "torchscript"
    platform = "pytorch_torchscript"
    suffixes = (".pt", ".pth", ".ts", ".jit")

    def versions(self) -> dict[str, str]:
        """Version of torch; empty where it is not installed."""
        try:
            return {"torch": metadata.version("torch")}
        except metadata.PackageNotFoundError:
            return {}

    def load(self, path: Path, options: LoadOptions) -> Engine:
        """Read, inspect and load one file.

        Raises ``ModelRejected`` with a reason that helps, ``DeviceMissing`` for a device that is
        not there.
        """
        try:
            from seqlens.backends.torchscript_engine import load
        except ImportError as error:
            raise ModelRejected(
                f"{path.name} needs torch, which cannot be imported ({error}): "
                "pip install 'seqlens[torchscript]'"
            ) from error
        return load(path, options)
