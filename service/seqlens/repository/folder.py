"""What lies in a model repository: a pure listing, nothing is loaded.

``DIR/<model>/<version>/model.onnx``, one model's folder, or a single model file.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from seqlens.errors import ModelRejected

# Names go into URLs, metric labels and file paths as they are.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_VERSION = re.compile(r"[1-9][0-9]{0,17}")
_NAME_RULE = "letters, digits, '.', '_' and '-', a letter or digit first, at most 128 characters"
_MOST_NAMES = 4  # of files, in a reason
CONFIG_FILE = "model.yaml"
TRITON_FILE = "config.pbtxt"


@dataclass(frozen=True, slots=True)
class FoundVersion:
    """One version of a model: its file, or why it has none that can be loaded."""

    version: int
    path: Path | None
    reason: str = ""  # why path is None


@dataclass(frozen=True, slots=True)
class FoundModel:
    """One model: its versions ascending, and the folder of model.yaml and its other files."""

    name: str
    folder: Path
    versions: tuple[FoundVersion, ...] = ()
    reason: str = ""  # why no version can be told at all

    def file(self, version: FoundVersion, name: str | None = None) -> Path:
        """The file of a version; ``name`` is the one that is stated.

        Raises ``ModelRejected`` where there is none.
        """
        if name is None:
            if version.path is None:
                raise ModelRejected(version.reason)
            return version.path
        numbered = self.folder / str(version.version)
        path = (numbered if numbered.is_dir() else self.folder) / name
        if not path.is_file():
            raise ModelRejected(f"the stated model file {name!r} is not in {path.parent.name}")
        return path


@dataclass(frozen=True, slots=True)
class Listing:
    """Everything found, and what was passed over, each with its reason."""

    models: tuple[FoundModel, ...]
    ignored: dict[Path, str]

    def model(self, name: str) -> FoundModel | None:
        """The model of this name."""
        return next((m for m in self.models if m.name == name), None)


def check_name(name: str) -> None:
    """Raise ``ModelRejected`` unless a model may have this name."""
    if not _NAME.fullmatch(name):
        raise ModelRejected(_not_allowed(name))


def _not_allowed(name: str) -> str:
    return f"name {name!r} is not allowed; expected {_NAME_RULE}"


def list_models(path: Path, suffixes: Collection[str]) -> Listing:
    """Find the models in a repository, in one model's folder, or the model in a file.

    ``suffixes`` are the endings of files that some backend reads. Hidden entries are passed
    over in silence. Raises ``ModelRejected`` if the path itself cannot be read.
    """
    lister = _Lister(tuple(sorted(suffixes)))
    path = path.expanduser().absolute()
    try:
        if path.is_file():
            return Listing((lister.single_file(path),), lister.ignored)
        if lister.is_model_folder(path):
            return Listing((lister.model(path),), lister.ignored)
        return Listing(lister.repository(path), lister.ignored)
    except OSError as error:
        raise ModelRejected(f"repository {path} cannot be read: {error.strerror}") from error


class _Lister:
    def __init__(self, suffixes: tuple[str, ...]) -> None:
        self._suffixes = suffixes
        self.ignored: dict[Path, str] = {}

    def single_file(self, path: Path) -> FoundModel:
        if not self._reads(path):
            expected = ", ".join(self._suffixes)
            raise ModelRejected(f"{path.name} is not a model file; expected one of {expected}")
        name = self._without_suffix(path)
        return _named(name, path.parent, (FoundVersion(1, path),))

    def is_model_folder(self, path: Path) -> bool:
        entries = _visible(path)
        if any(
            e.name in (CONFIG_FILE, TRITON_FILE) or (e.is_file() and self._reads(e))
            for e in entries
        ):
            return True
        versions = [e for e in entries if _VERSION.fullmatch(e.name) and e.is_dir()]
        return any(self._reads(e) for folder in versions for e in _visible(folder) if e.is_file())

    def repository(self, path: Path) -> tuple[FoundModel, ...]:
        models = []
        for entry in _visible(path):
            if entry.is_dir():
                models.append(self._guarded(entry))
            else:
                self.ignored[entry] = "a file beside the models' folders belongs to no model"
        return tuple(models)

    def _guarded(self, folder: Path) -> FoundModel:
        """A model whose folder cannot be read stands in no other model's way."""
        try:
            return self.model(folder)
        except OSError as error:
            return FoundModel(folder.name, folder, reason=f"cannot be read: {error.strerror}")

    def model(self, folder: Path) -> FoundModel:
        entries = _visible(folder)
        numbered = [e for e in entries if e.is_dir() and _VERSION.fullmatch(e.name)]
        files = [e for e in entries if e.is_file() and self._reads(e)]
        for entry in entries:
            if entry.is_dir() and entry not in numbered:
                self.ignored[entry] = "not a version: versions are positive whole numbers"
        if numbered:
            self.ignored.update(dict.fromkeys(files, "a file beside version folders"))
            versions = sorted((self._version(e) for e in numbered), key=lambda v: v.version)
            return _named(folder.name, folder, tuple(versions))
        if files:
            return _named(folder.name, folder, (self._chosen(1, files),))
        return _named(folder.name, folder, reason=self._no_version(folder))

    def _version(self, folder: Path) -> FoundVersion:
        try:
            files = [e for e in _visible(folder) if e.is_file()]
        except OSError as error:
            return FoundVersion(int(folder.name), None, f"cannot be read: {error.strerror}")
        return self._chosen(int(folder.name), files)

    def _chosen(self, version: int, files: list[Path]) -> FoundVersion:
        """The only model file, or the only one called ``model``."""
        read = [file for file in files if self._reads(file)]
        named = [file for file in read if self._without_suffix(file) == "model"]
        chosen = named or read
        if len(chosen) == 1:
            return FoundVersion(version, chosen[0])
        if not chosen:
            expected = ", ".join(f"model{suffix}" for suffix in self._suffixes)
            there = ", ".join(file.name for file in files[:_MOST_NAMES]) or "nothing"
            reason = f"no model file; expected one of {expected}, found {there}"
            return FoundVersion(version, None, reason)
        names = ", ".join(sorted(file.name for file in chosen))
        return FoundVersion(version, None, f"several model files ({names}): keep one")

    def _no_version(self, folder: Path) -> str:
        expected = " or ".join(f"1/model{suffix}" for suffix in self._suffixes)
        return f"folder {folder.name} has no version; expected {expected}"

    def _reads(self, path: Path) -> bool:
        return path.name.lower().endswith(self._suffixes)

    def _without_suffix(self, path: Path) -> str:
        ending = max((s for s in self._suffixes if path.name.lower().endswith(s)), key=len)
        return path.name[: -len(ending)]


def _named(
    name: str, folder: Path, versions: tuple[FoundVersion, ...] = (), reason: str = ""
) -> FoundModel:
    if _NAME.fullmatch(name):
        return FoundModel(name, folder, versions, reason)
    return FoundModel(name, folder, (), _not_allowed(name))


def _visible(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
