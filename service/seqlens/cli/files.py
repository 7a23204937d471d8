"""The model file that a path on the command line stands for."""

from dataclasses import dataclass
from pathlib import Path

from seqlens.backends.plugins import find_backends
from seqlens.errors import ModelRejected
from seqlens.repository.folder import FoundModel, list_models


@dataclass(frozen=True, slots=True)
class FoundFile:
    """The file of one version."""

    version: int
    path: Path


def find_one(path: Path) -> tuple[FoundModel, FoundFile]:
    """The only model at a path and the file of its highest version.

    Raises ``ModelRejected`` when there is none, or more than one.
    """
    if not path.exists():
        raise ModelRejected(f"{path} does not exist")
    suffixes = [suffix for backend in find_backends().values() for suffix in backend.suffixes]
    models = list_models(path, suffixes).models
    if len(models) != 1:
        names = ", ".join(model.name for model in models) or "none"
        raise ModelRejected(f"{path}: expected one model, found {names}")
    (model,) = models
    last = model.versions[-1] if model.versions else None
    if last is None or last.path is None:
        raise ModelRejected(f"{path}: {model.reason or (last.reason if last else 'no version')}")
    return model, FoundFile(last.version, last.path)
