"""The models of a repository: loading, replacing and unloading them while others serve."""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from seqlens.backends.plugins import FoundBackends, find_all
from seqlens.errors import DeviceMissing, ModelNotFound, ModelRejected, SeqLensError
from seqlens.metrics.observer import Observer
from seqlens.repository.cache import ProofCache
from seqlens.repository.folder import FoundModel, FoundVersion, Listing, list_models
from seqlens.repository.loading import LoadedModel, Loader
from seqlens.repository.sent import Sent, SentFolder
from seqlens.repository.stated import Stated, read_stated
from seqlens.repository.states import ModelEntry, ModelSlots, ModelState, VersionSlot
from seqlens.repository.verify import VerificationFailed
from seqlens.settings import ServerSettings
from seqlens_wire.pb import model_config_pb2 as pb

_log = logging.getLogger(__name__)
_LEFT_OUT = "left out by version_policy"
NOTHING_SENT = Sent()

T = TypeVar("T")
Notify = Callable[[LoadedModel], Awaitable[None]]


class Repository:
    """All models of a repository, each with its state.

    Lives on the event loop; files are read and models proved in ``load_workers`` threads.
    ``on_ready`` is awaited before a version is found by ``get``; ``on_unload`` once it is found
    no more, and its engine is closed when that returns. ``backends`` are all registered ones if
    left out.
    """

    def __init__(
        self,
        settings: ServerSettings,
        observer: Observer,
        on_ready: Notify,
        on_unload: Notify,
        *,
        backends: FoundBackends | None = None,
    ) -> None:
        self._path = settings.repository
        self._observer, self._on_ready, self._on_unload = observer, on_ready, on_unload
        self._backends = backends or find_all()
        self._loader = Loader(settings, self._backends, ProofCache(settings.cache))
        self._models: dict[str, ModelSlots] = {}
        workers = settings.load_workers or os.cpu_count() or 1
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="seqlens-load")

    async def load_all(self) -> None:
        """Load what the repository holds now; what it holds no more is unloaded.

        A model that cannot be loaded stands in no other's way: the index has its reason. Raises
        ``ModelRejected`` if the repository itself cannot be read, ``DeviceMissing`` if no model
        is served and one asked for a device that is not there.
        """
        listing = await self._list()
        gone = [name for name in self._models if listing.model(name) is None]
        await asyncio.gather(
            *(self._load(model) for model in listing.models),
            *(self._remove(name) for name in gone),
        )
        slots = [slot for model in self._models.values() for slot in model.slots.values()]
        missing = [slot.cause for slot in slots if isinstance(slot.cause, DeviceMissing)]
        if missing and not any(slot.loaded for slot in slots):
            raise missing[0]

    async def load(self, name: str, sent: Sent = NOTHING_SENT) -> None:
        """Load a model, or take up what has changed in its folder.

        What is ``sent`` counts until the next load. Versions whose files are as they were go on
        serving. Raises ``ModelNotFound``, and ``ModelRejected`` with the reasons if a version
        could not be loaded; one that was serving before then goes on.
        """
        folder = None
        if sent.files:
            folder = await self._in_thread(lambda: SentFolder(name, sent.files, self._suffixes()))
        model = (await self._list()).model(name) if folder is None else folder.model
        if model is None:
            raise ModelNotFound(name, "", self._known())
        failures = await self._load(model, sent.config, folder)
        if failures:
            raise ModelRejected(f"model {name!r}: {'; '.join(failures)}")

    async def unload(self, name: str) -> None:
        """Serve no version of a model any more. Raises ``ModelNotFound``."""
        self.check_known(name)
        model = self._models[name]
        async with model.lock:
            slots = model.slots.values()
            await asyncio.gather(*(self._unload(slot, "unloaded") for slot in slots))
            await asyncio.to_thread(model.remove_unused_folders)

    async def close(self) -> None:
        """Unload all models and end the threads; loads in progress are waited for."""
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)
        await asyncio.gather(*(self.unload(name) for name in list(self._models)))

    def get(self, name: str, version: str = "") -> LoadedModel:
        """A version that serves; without ``version`` the highest one.

        Raises ``ModelNotFound`` or ``ModelNotReady``.
        """
        if name not in self._models:
            raise ModelNotFound(name, version, self._known())
        model = self._models[name]
        if not version:
            return model.highest(f"model {name!r}")
        # Compared as texts: Python refuses to make numbers of thousands of digits.
        slots = {str(number): slot for number, slot in sorted(model.slots.items()) if number}
        if version not in slots:
            raise ModelNotFound(name, version, ", ".join(slots))
        return slots[version].serving(f"model {name!r} version {version!r}")

    def index(self) -> list[ModelEntry]:
        """All models and versions that are known, sorted."""
        return [
            ModelEntry(name, str(version or ""), slot.state, slot.reason)
            for name, model in sorted(self._models.items())
            for version, slot in sorted(model.slots.items())
        ]

    def check_known(self, name: str) -> None:
        """Raise ``ModelNotFound`` for a model that the index does not have."""
        if name not in self._models:
            raise ModelNotFound(name, "", self._known())

    def _known(self) -> str:
        return ", ".join(sorted(self._models))

    def _suffixes(self) -> list[str]:
        return [s for backend in self._backends.working.values() for s in backend.suffixes]

    async def _list(self) -> Listing:
        listing = await self._in_thread(lambda: list_models(self._path, self._suffixes()))
        for path, reason in listing.ignored.items():
            _log.warning("ignored %s: %s", path, reason)
        return listing

    async def _load(
        self,
        found: FoundModel,
        config: pb.ModelConfig | None = None,
        folder: SentFolder | None = None,
    ) -> list[str]:
        """Bring a model to what its folder holds; returns why versions could not be loaded."""
        model = self._models.setdefault(found.name, ModelSlots())
        async with model.lock:
            if folder is not None:
                model.folders.append(folder)
            try:
                return await self._bring(found, model, config)
            finally:
                await asyncio.to_thread(model.remove_unused_folders)

    async def _bring(
        self, found: FoundModel, model: ModelSlots, config: pb.ModelConfig | None
    ) -> list[str]:
        if found.reason:
            return await self._reject(found, model, found.reason)
        try:
            stated = await self._in_thread(lambda: read_stated(found, self._backends, config))
        except ModelRejected as error:
            return await self._reject(found, model, str(error))
        return await self._apply(found, model, stated)

    async def _apply(self, found: FoundModel, model: ModelSlots, stated: Stated) -> list[str]:
        config = stated.config
        numbers = tuple(version.version for version in found.versions)
        chosen = config.chosen(numbers)
        missing = "asked for by version_policy, but not there"
        failures = [self._fail(found.name, model, n, missing) for n in config.missing(numbers)]
        versions = [v for v in found.versions if v.version in chosen]
        results = await asyncio.gather(*(self._replace(found, model, v, stated) for v in versions))
        failures += [reason for reason in results if reason]
        if not failures:  # else a version that was to be followed goes on
            await self._retire(model, numbers, chosen)
        return failures

    async def _retire(
        self, model: ModelSlots, numbers: Iterable[int], chosen: Iterable[int]
    ) -> None:
        """Unload versions that are no longer chosen, forget those that are gone."""
        for version in [v for v in model.slots if v not in chosen]:
            await self._unload(model.slots[version], _LEFT_OUT)
            if version not in numbers:
                del model.slots[version]
        for version in numbers:
            if version not in model.slots:
                model.slots[version] = VersionSlot(ModelState.UNAVAILABLE, _LEFT_OUT)

    async def _replace(
        self, found: FoundModel, model: ModelSlots, version: FoundVersion, stated: Stated
    ) -> str:
        """Load a version in the place of the one before it; returns why that failed."""
        number, slot = version.version, model.of(version.version)
        before = slot.loaded
        if before is None:
            slot.state, slot.reason = ModelState.LOADING, "loading"
        try:
            path = found.file(version, stated.config.file)
            loaded = await self._in_thread(
                lambda: self._load_new(found, number, path, stated, before)
            )
            if loaded is before:
                slot.reason = ""
                return ""
            await self._serve(loaded)
        except SeqLensError as error:
            return self._fail(found.name, model, number, str(error), error)
        except Exception as error:
            _log.exception("model %s version %s could not be loaded", found.name, number)
            reason = f"{type(error).__name__}: {error}"
            return self._fail(found.name, model, number, reason, error)
        slot.ready(loaded)
        if before is not None:
            await self._close(before)
        return ""

    def _load_new(
        self,
        found: FoundModel,
        version: int,
        path: Path,
        stated: Stated,
        before: LoadedModel | None,
    ) -> LoadedModel:
        """The version loaded, or the one before it if no file has changed. Runs in a thread."""
        if before is not None and before.content == self._loader.content(found, path, stated):
            return before
        return self._loader.load(found, version, path, stated)

    async def _serve(self, loaded: LoadedModel) -> None:
        self._observer.model_loaded(loaded.metric_labels, loaded.report())
        try:
            await self._on_ready(loaded)
        except BaseException:
            loaded.engine.close()
            self._observer.model_unloaded(loaded.metric_labels)
            raise
        _log.info(
            "model %s version %s is ready, served %s: %s",
            loaded.name,
            loaded.version,
            loaded.decision.strategy.value,
            loaded.decision.reason,
        )
        for note in loaded.notes:
            _log.warning("model %s version %s: %s", loaded.name, loaded.version, note)

    async def _reject(self, found: FoundModel, model: ModelSlots, reason: str) -> list[str]:
        """Nothing of the model can be loaded: every version that does not serve says why."""
        numbers = [version.version for version in found.versions] or [0]
        serving = [number for number, slot in model.slots.items() if slot.loaded]
        return [self._fail(found.name, model, n, reason) for n in {*numbers, *serving}][:1]

    def _fail(
        self,
        name: str,
        model: ModelSlots,
        version: int,
        reason: str,
        error: Exception | None = None,
    ) -> str:
        unproved = isinstance(error, VerificationFailed)
        self._observer.model_load_failed(
            name, result="verification_failed" if unproved else "failed"
        )
        _log.error("model %s version %s cannot be loaded: %s", name, version or "-", reason)
        model.of(version).failed(reason, error)
        return f"version {version}: {reason}" if version else reason

    async def _remove(self, name: str) -> None:
        await self.unload(name)
        self._models.pop(name, None)

    async def _unload(self, slot: VersionSlot, reason: str) -> None:
        loaded, slot.loaded = slot.loaded, None
        if loaded is not None:
            slot.state, slot.reason = ModelState.UNLOADING, "being unloaded"
            await self._close(loaded)
            slot.state, slot.reason = ModelState.UNAVAILABLE, reason

    async def _close(self, loaded: LoadedModel) -> None:
        try:
            await self._on_unload(loaded)
        finally:
            loaded.engine.close()
            self._observer.model_unloaded(loaded.metric_labels)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)
