"""What is known of each model and version of a repository: which serve, and why others do not."""

import asyncio
from dataclasses import dataclass, field
from enum import StrEnum

from seqlens.errors import ModelNotReady
from seqlens.repository.loading import LoadedModel
from seqlens.repository.sent import SentFolder


class ModelState(StrEnum):
    """State of one version, as the repository index names it."""

    UNKNOWN = "UNKNOWN"
    READY = "READY"
    UNAVAILABLE = "UNAVAILABLE"
    LOADING = "LOADING"
    UNLOADING = "UNLOADING"


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One line of the repository index. ``version`` is empty for a model without any."""

    name: str
    version: str
    state: ModelState
    reason: str = ""


@dataclass(slots=True)
class VersionSlot:
    """What is known of one version."""

    state: ModelState = ModelState.UNKNOWN
    reason: str = ""
    loaded: LoadedModel | None = None  # serving; may be so while the next one loads
    cause: Exception | None = None  # of the last load, if it failed

    def serving(self, what: str) -> LoadedModel:
        """The version that serves. Raises ``ModelNotReady``, where ``what`` names the version."""
        if self.loaded is None:
            raise ModelNotReady(f"{what} is not ready: {self.reason}")
        return self.loaded

    def ready(self, loaded: LoadedModel) -> None:
        """A version serves, in place of what served before."""
        self.state, self.reason, self.loaded, self.cause = ModelState.READY, "", loaded, None

    def failed(self, reason: str, cause: Exception | None) -> None:
        """A load failed; what served before goes on."""
        self.cause = cause
        if self.loaded is None:
            self.state, self.reason = ModelState.UNAVAILABLE, reason
        else:
            self.reason = f"the version loaded before goes on serving; the new one: {reason}"


@dataclass(slots=True)
class ModelSlots:
    """What is known of one model. Version 0 stands for a model without any."""

    slots: dict[int, VersionSlot] = field(default_factory=dict)
    folders: list[SentFolder] = field(default_factory=list)  # of files that clients sent
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)  # one load or unload at a time

    def of(self, version: int) -> VersionSlot:
        """The slot of a version, made if there is none."""
        return self.slots.setdefault(version, VersionSlot())

    def highest(self, what: str) -> LoadedModel:
        """The highest version that serves. Raises ``ModelNotReady``; ``what`` names the model."""
        ready = [version for version, slot in self.slots.items() if slot.loaded]
        if ready:
            return self.slots[max(ready)].serving(what)
        newest_first = (slot for _, slot in sorted(self.slots.items(), reverse=True))
        reason = next((slot.reason for slot in newest_first if slot.reason), "loading")
        raise ModelNotReady(f"{what} is not ready: {reason}")

    def remove_unused_folders(self) -> None:
        """Delete files that were sent and that no version is served from any more."""
        paths = [slot.loaded.path for slot in self.slots.values() if slot.loaded]
        used = [one for one in self.folders if any(one.holds(path) for path in paths)]
        for folder in self.folders:
            if folder not in used:
                folder.remove()
        self.folders = used
