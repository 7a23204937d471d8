"""Opening TorchScript files, and saying what a file is that is none.

Only ``torch.jit.load`` reads them: it runs no pickled code, unlike ``torch.load``.
"""

import io
import threading
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from seqlens.errors import ModelRejected

_EXPORT = "export it with torch.jit.save(torch.jit.script(model.eval()), PATH)"

# Models load in several threads, and the warnings that are shown are the process's, not a thread's.
_WARNINGS = threading.Lock()


def read_module(path: Path, device: str) -> Any:
    """Load a module in eval mode on ``device`` (a torch device name).

    Raises ``ModelRejected`` with what the file is instead, if it is no TorchScript.
    """
    reason = _foreign(path)
    if reason:
        raise ModelRejected(f"{path.name}: {reason}")
    try:
        with _WARNINGS, warnings.catch_warnings():
            # torch deprecates TorchScript as a whole on every load; users cannot act on it here.
            warnings.filterwarnings("ignore", message=".*torch.jit", category=DeprecationWarning)
            module = torch.jit.load(str(path), map_location=device)  # type: ignore[no-untyped-call]
    except Exception as error:  # C++ errors of many classes, depending on what is broken
        detail = str(error).strip().splitlines()[:1]
        raise ModelRejected(
            f"{path.name}: torch cannot load this TorchScript file, it may be damaged or written "
            f"by a newer torch than {torch.__version__}: {''.join(detail)}"
        ) from error
    if not module._c._has_method("forward"):
        raise ModelRejected(f"{path.name}: the module has no forward method")
    return module.eval()


def _foreign(path: Path) -> str:
    """What speaks against a file before torch sees it; empty if nothing does."""
    if not path.is_file():
        return "there is no such file"
    if path.stat().st_size == 0:
        return "the file is empty"
    if not zipfile.is_zipfile(path):
        return _unzipped(path)
    with zipfile.ZipFile(path) as archive:
        entries = [name.partition("/")[2] or name for name in archive.namelist()]
    if any(name.startswith("code/") for name in entries):
        return ""
    if "data.pkl" in entries:
        return f"this is a state_dict or a pickled model, not TorchScript: {_EXPORT}"
    if any(name.startswith(("models/", "archive_format")) for name in entries):
        return f"this is a torch.export archive, not TorchScript: {_EXPORT}"
    return f"this is a zip archive without TorchScript code: {_EXPORT}"


def _unzipped(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(4)
    if start[:2] == b"PK":
        return "the archive is truncated: copy or export it again"
    if start[:1] == b"\x80":
        return f"this is a pickle (an old state_dict?), not TorchScript: {_EXPORT}"
    return f"this is no TorchScript archive (it starts with {start!r}): {_EXPORT}"


def private_copy(module: Any, device: str) -> Any:
    """The same module once more, sharing nothing with it: not even its constants.

    A deep copy would share the weights that freezing has turned into constants of the graph.
    """
    buffer = io.BytesIO(module._c.save_to_buffer({}))
    with _WARNINGS, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit", category=DeprecationWarning)
        copied = torch.jit.load(buffer, map_location=device)  # type: ignore[no-untyped-call]
    return copied.eval()
