"""Traces: for some requests, when each part of them began and ended."""

import time
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

from seqlens.api.requests import Timings
from seqlens.api.trace_file import TraceFile
from seqlens.api.trace_settings import TraceChange, TraceSettings, read_change
from seqlens.metrics.observer import ModelLabels


@dataclass(slots=True)
class _Own:
    """What was set for one model alone: the names of those fields, and all values."""

    settings: TraceSettings
    names: set[str] = field(default_factory=set)


class Tracing:
    """Chooses the requests that are traced and writes them down. Used on the event loop only.

    ``on`` tells whether any is: callers ask it first, so that tracing costs nothing while it is
    off. Without ``path`` nothing can be traced.
    """

    def __init__(self, path: Path | None) -> None:
        self.on = False
        self._path = "" if path is None else str(path)
        self._file = None if path is None else TraceFile(path.expanduser())
        self._all = TraceSettings()
        self._own: dict[str, _Own] = {}
        self._requests: dict[str, int] = {}
        self._ids = count(1)

    def settings(self, model: str = "") -> dict[str, list[str]]:
        """The settings of a model, or those for all models, by the names of the protocol."""
        return self._of(model).texts(self._path)

    def change(self, stated: dict[str, list[str]], model: str = "") -> None:
        """Set what is stated for one model, or for all that have no setting of their own.

        An empty list clears a setting: that of a model is then as for all. Raises
        ``InvalidRequest``, with nothing changed.
        """
        change = read_change(stated, self._path)
        if model:
            self._change_own(model, change)
        else:
            self._all = change.on(self._all, TraceSettings())
        self.on = any(one.timestamps and one.count for one in self._each())

    def finished(
        self, labels: ModelLabels, request_id: str, timings: Timings | None, seconds: float
    ) -> None:
        """Trace one request that ended now, if it is its turn.

        ``timings`` are None for one that was not answered: of it only its begin and end are known.
        """
        settings = self._of(labels.model)
        if not settings.timestamps or not settings.count or self._file is None:
            return
        number = self._requests.get(labels.model, 0) + 1
        self._requests[labels.model] = number % settings.rate
        if number < settings.rate:
            return
        self._use_up(labels.model)
        trace = {"id": next(self._ids), **_trace(labels, request_id, timings, seconds)}
        self._file.add(trace, settings.log_frequency)

    def close(self) -> None:
        """Write what waits to be written."""
        if self._file is not None:
            self._file.close()

    def _of(self, model: str) -> TraceSettings:
        own = self._own.get(model)
        if own is None:
            return self._all
        return replace(self._all, **{name: getattr(own.settings, name) for name in own.names})

    def _each(self) -> list[TraceSettings]:
        return [self._all, *map(self._of, self._own)]

    def _change_own(self, model: str, change: TraceChange) -> None:
        own = self._own.get(model, _Own(self._all))
        names = (own.names | set(change.values)) - change.cleared
        if names:
            self._own[model] = _Own(change.on(own.settings, self._all), names)
        else:
            self._own.pop(model, None)

    def _use_up(self, model: str) -> None:
        """One less of what may be traced, of the model's own number or of that for all."""
        own = self._own.get(model)
        if own is not None and "count" in own.names:
            own.settings = _one_less(own.settings)
        else:
            self._all = _one_less(self._all)
        if not self._of(model).count:
            self.on = any(one.timestamps and one.count for one in self._each())


def _one_less(settings: TraceSettings) -> TraceSettings:
    return replace(settings, count=settings.count - 1) if settings.count > 0 else settings


def _trace(
    labels: ModelLabels, request_id: str, timings: Timings | None, seconds: float
) -> dict[str, Any]:
    """A request as the reference server writes it down, with its clock: steady, and no date."""
    trace: dict[str, Any] = {"model_name": labels.model, "model_version": int(labels.version)}
    if request_id:
        trace["request_id"] = request_id
    end = time.monotonic()
    start = end - seconds
    moments = [("REQUEST_START", start)]
    if timings is not None:
        moments += _parts(start, timings)
    moments.append(("REQUEST_END", end))
    trace["timestamps"] = [{"name": name, "ns": round(at * 1e9)} for name, at in moments]
    return trace


def _parts(start: float, timings: Timings) -> list[tuple[str, float]]:
    """Where each part began or ended, by the same times that statistics and metrics tell."""
    at, moments = start + timings.decode_seconds, []
    for name, seconds in (
        ("QUEUE_START", timings.queue_seconds),
        ("COMPUTE_START", timings.build_seconds),
        ("COMPUTE_INPUT_END", timings.compute_seconds),
        ("COMPUTE_OUTPUT_START", timings.encode_seconds),
    ):
        moments.append((name, at))
        at += seconds
    return [*moments, ("COMPUTE_END", at)]
