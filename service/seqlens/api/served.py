"""The models that take requests now, each with the queue that its sequences wait in."""

import asyncio
from dataclasses import dataclass

from seqlens.errors import Draining, ModelNotReady, SeqLensError
from seqlens.metrics.observer import Observer
from seqlens.repository.loading import LoadedModel
from seqlens.repository.models import Repository
from seqlens.scheduling.model_queue import ModelQueue

DRAINING = "the server is shutting down and takes no new work"


@dataclass(frozen=True, slots=True)
class Served:
    """One version of a model and its queue."""

    model: LoadedModel
    queue: ModelQueue


class ServedModels:
    """Finds the model that a request names. Used on the event loop only.

    Once ``draining`` is set all requests are refused.
    """

    def __init__(self, repository: Repository, observer: Observer) -> None:
        self.repository = repository
        self._observer = observer
        self._queues: dict[int, ModelQueue] = {}
        self.draining = asyncio.Event()

    def add(self, model: LoadedModel, queue: ModelQueue) -> None:
        """From now on the model takes requests."""
        # By identity: while a version is replaced by its equal, both have queues.
        self._queues[id(model)] = queue

    def remove(self, model: LoadedModel) -> ModelQueue | None:
        """From now on the model takes none; returns its queue."""
        return self._queues.pop(id(model), None)

    def find(self, name: str, version: str) -> Served:
        """The model that a request names; an empty version lets the server choose.

        Raises ``ModelNotFound``, ``ModelNotReady``, or ``Draining`` when the server shuts down.
        """
        model = self.repository.get(name, version)
        if self.draining.is_set():
            self._observer.rejected(model.metric_labels, reason="draining")
            raise Draining(DRAINING)
        queue = self._queues.get(id(model))
        if queue is None:
            raise ModelNotReady(f"model {name!r} version {model.version!r} is not ready yet")
        return Served(model, queue)

    def ready(self, name: str, version: str) -> bool:
        """Whether the model takes requests now."""
        if self.draining.is_set():
            return False
        try:
            self.find(name, version)
        except SeqLensError:
            return False
        return True

    def versions(self, name: str) -> list[str]:
        """Versions of a model that take requests."""
        return [e.version for e in self.repository.index() if e.name == name and e.state == "READY"]
