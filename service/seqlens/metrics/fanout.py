"""Several observers that are told the same."""

from collections.abc import Callable
from typing import Any, cast

from seqlens.metrics.observer import Observer


class _Fanout:
    """Passes each event to those observers that have a method for it."""

    def __init__(self, observers: tuple[object, ...]) -> None:
        self._observers = observers

    def __getattr__(self, event: str) -> Callable[..., None]:
        if event not in Observer.__dict__:
            raise AttributeError(event)
        listeners = [getattr(one, event) for one in self._observers if hasattr(one, event)]

        def tell_each(*arguments: Any, **facts: Any) -> None:
            for listener in listeners:
                listener(*arguments, **facts)

        tell = listeners[0] if len(listeners) == 1 else tell_each
        # Found here only once: from now on the attribute itself answers.
        setattr(self, event, tell)
        return tell


def tell_all(*observers: object) -> Observer:
    """One observer that tells all of these; each may listen to some of the events only."""
    return cast(Observer, _Fanout(observers))
