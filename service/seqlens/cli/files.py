"""The model file that a path on the command line stands for."""

from dataclasses import dataclass
from pathlib import Path

from seqlens.backends.plugins import find_all
from seqlens.errors import ModelRejected
from seqlens.repository.folder import FoundModel, list_models
from seqlens.repository.stated import Stated, read_stated


@dataclass(frozen=True, slots=True)
class FoundFile:
    """The file of one version, and what is stated about its model."""

    model: FoundModel
    version: int
    path: Path
    stated: Stated


def find_one(path: Path) -> FoundFile:
    """The file of the highest version of the only model at a path.

    Raises ``ModelRejected`` when there is none, or more than one, and for what is stated wrongly.
    """
    if not path.exists():
        raise ModelRejected(f"{path} does not exist")
    backends = find_all()
    suffixes = [s for backend in backends.working.values() for s in backend.suffixes]
    models = list_models(path, suffixes).models
    if len(models) != 1:
        names = ", ".join(model.name for model in models) or "none"
        raise ModelRejected(f"{path}: expected one model, found {names}")
    (model,) = models
    if not model.versions:
        raise ModelRejected(f"{path}: {model.reason or 'no version'}")
    last = model.versions[-1]
    try:
        stated = read_stated(model, backends)
        return FoundFile(model, last.version, model.file(last, stated.config.file), stated)
    except ModelRejected as error:
        raise error.at(str(path)) from error
