"""Finding backends: every package may register one in the entry-point group ``seqlens.backends``.

A backend's module is imported when the backend is first needed, so that one with a missing or
broken library stands in nobody's way until a model asks for it.
"""

from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from seqlens.backends.base import Backend
from seqlens.errors import ModelRejected

GROUP = "seqlens.backends"


@dataclass(frozen=True, slots=True)
class FoundBackends:
    """Backends by name, and why others could not be had."""

    working: dict[str, Backend]
    broken: dict[str, str]  # name to reason

    def __str__(self) -> str:
        known = [
            f"{name} ({', '.join(backend.suffixes)})" for name, backend in self.working.items()
        ]
        failed = [f"{name} cannot be used: {reason}" for name, reason in self.broken.items()]
        return "; ".join([", ".join(known) or "no backend works", *failed])


def find_all() -> FoundBackends:
    """All registered backends, broken ones with their reason."""
    working: dict[str, Backend] = {}
    broken: dict[str, str] = {}
    for entry in sorted(metadata.entry_points(group=GROUP)):
        try:
            working[entry.name] = _instance(entry)
        except Exception as error:  # a third party's import may fail in any way
            broken[entry.name] = f"{type(error).__name__}: {error}"
    return FoundBackends(working, broken)


def backend_for(path: Path, name: str | None = None, found: FoundBackends | None = None) -> Backend:
    """The backend of this name, or else the one that reads files with this ending.

    ``found`` are those to choose from; None: all registered ones. Raises ``ModelRejected`` with
    all known backends if there is none.
    """
    found = found or find_all()
    if name is not None:
        if name in found.working:
            return found.working[name]
        raise ModelRejected(f"unknown backend {name!r} for {path.name}; known: {found}")
    for backend in found.working.values():
        if path.name.lower().endswith(backend.suffixes):
            return backend
    raise ModelRejected(f"no backend reads {path.name}; known: {found}")


def _instance(entry: metadata.EntryPoint) -> Backend:
    backend = entry.load()()
    if not isinstance(backend, Backend):
        raise TypeError(f"{entry.value} is not a backend: see seqlens.backends.base.Backend")
    return backend
