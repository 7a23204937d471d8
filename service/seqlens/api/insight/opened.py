"""Models opened up to look inside: on first use, shared, and closed when nobody looks any more."""

import asyncio
import threading
from functools import partial

import structlog

from seqlens.backends.tapped import TappedModel
from seqlens.errors import ModelNotReady, NotInModel
from seqlens.repository.loading import LoadedModel
from seqlens.scheduling.insight_lanes import Place
from seqlens.scheduling.pieces import Cancelled

_log = structlog.get_logger("seqlens.insight")


class OpenedModels:
    """The tapped models of served ones. Used on the event loop only.

    Opening takes memory and up to seconds, so it is done in the thread of the first request that
    needs it, and undone ``idle_seconds`` after the last.
    """

    def __init__(self, idle_seconds: float) -> None:
        self._idle_seconds = idle_seconds
        # By identity: while a version is replaced by its equal, both may be open.
        self._opened: dict[int, _Opened] = {}

    def add(self, model: LoadedModel) -> None:
        """From now on the model may be opened."""
        self._opened[id(model)] = _Opened(model, self._idle_seconds)

    async def open(self, model: LoadedModel, place: Place, deadline: float | None) -> TappedModel:
        """A model opened up, for as long as the request has its place.

        Raises ``ModelRejected`` where its file cannot be opened this way any more, ``NotInModel``
        for a backend that cannot look inside, ``ModelNotReady`` once it is being unloaded.
        """
        opened = self._opened.get(id(model))
        if opened is None:
            raise _unloaded(model)
        opened.enter(place)
        return await opened.tapped(place, deadline)

    async def close(self, model: LoadedModel, drain_seconds: float) -> None:
        """Close what is open of a model that is served no more.

        Requests that look inside have ``drain_seconds`` to end, then they fail with
        ``ModelNotReady``. Returns when no thread uses the model any more.
        """
        opened = self._opened.pop(id(model), None)
        if opened is not None:
            await opened.end(drain_seconds)


class _Opened:
    """One model, its tapped twin while there is one, and who uses it."""

    def __init__(self, model: LoadedModel, idle_seconds: float) -> None:
        self._model = model
        self._idle_seconds = idle_seconds
        self._tapped: TappedModel | None = None
        self._opening = asyncio.Lock()
        self._in_thread = threading.Lock()  # held by the thread that opens the model
        self._places: set[Place] = set()
        self._unused = asyncio.Event()
        self._unused.set()
        self._idle: asyncio.TimerHandle | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._ending = False

    def enter(self, place: Place) -> None:
        """A request begins to use the model; it ends when its place is free again."""
        if self._ending:
            raise _unloaded(self._model)
        if self._idle is not None:
            self._idle.cancel()
        self._places.add(place)
        self._unused.clear()
        place.afterwards(partial(self._leave, place))

    async def tapped(self, place: Place, deadline: float | None) -> TappedModel:
        """The tapped model, opened by one request while others wait for it."""
        async with self._opening:
            if self._tapped is None:
                # Kept by the work itself: the request may leave while its thread opens the model.
                await place.run(self._open, deadline=deadline)
            assert self._tapped is not None
            return self._tapped

    async def end(self, drain_seconds: float) -> None:
        """Take no more requests, see the present ones off, and close."""
        self._ending = True
        try:
            async with asyncio.timeout(drain_seconds):
                await self._unused.wait()
        except TimeoutError:
            for place in list(self._places):
                place.fail(_unloaded(self._model))
            await self._unused.wait()
        self._close_soon()
        if self._closing:
            await asyncio.wait(self._closing)

    def _open(self, _: Cancelled) -> None:
        # A request that has left may still be opening it, in another thread.
        with self._in_thread:
            tapped = self._tapped or self._model.engine.tapped()
            if tapped is None:
                raise NotInModel(f"backend {self._model.backend!r} cannot look inside its models")
            self._tapped = tapped

    def _leave(self, place: Place) -> None:
        self._places.discard(place)
        if self._places:
            return
        self._unused.set()
        if not self._ending:
            loop = asyncio.get_running_loop()
            self._idle = loop.call_later(self._idle_seconds, self._close_soon)

    def _close_soon(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        tapped, self._tapped = self._tapped, None
        if tapped is not None:
            task = asyncio.create_task(asyncio.to_thread(self._close, tapped))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def _close(self, tapped: TappedModel) -> None:
        try:
            tapped.close()
        except Exception:
            # Nobody waits for this but the end of the model, which must not hang on it.
            _log.exception("a model opened to look inside failed to close", model=self._model.name)


def _unloaded(model: LoadedModel) -> ModelNotReady:
    return ModelNotReady(f"model {model.name!r} is being unloaded")
