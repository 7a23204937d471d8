"""What a client may set about tracing, and how it is read."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from seqlens.api.message_bounds import shown
from seqlens.errors import InvalidRequest

# As the protocol has them: every setting is a list of texts.
Texts = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class TraceSettings:
    """How requests are traced; the defaults are those of the reference server."""

    timestamps: bool = False
    rate: int = 1_000  # every so many requests of a model one is traced
    count: int = -1  # so many more are traced; -1: no end
    log_frequency: int = 0  # a file is full with so many traces; 0: one file for all

    def texts(self, file: str) -> dict[str, list[str]]:
        """All settings by the names of the protocol."""
        return {
            "trace_level": ["TIMESTAMPS" if self.timestamps else "OFF"],
            "trace_rate": [str(self.rate)],
            "trace_count": [str(self.count)],
            "log_frequency": [str(self.log_frequency)],
            "trace_file": [file],
            "trace_mode": ["triton"],
        }


_FIELDS = {
    "trace_level": "timestamps",
    "trace_rate": "rate",
    "trace_count": "count",
    "log_frequency": "log_frequency",
}
NAMES = (*_FIELDS, "trace_file", "trace_mode")


@dataclass(frozen=True, slots=True)
class TraceChange:
    """What is asked to be set, checked; names are fields of ``TraceSettings``."""

    values: Mapping[str, Any]
    cleared: frozenset[str]  # to be what they are without this change

    def on(self, settings: TraceSettings, cleared: TraceSettings) -> TraceSettings:
        """The settings after the change; what it clears is as in ``cleared``."""
        kept = {name: getattr(cleared, name) for name in self.cleared}
        return replace(settings, **kept, **self.values)


def read_change(stated: Texts, file: str) -> TraceChange:
    """Check what is asked for; an empty list clears a setting. Raises ``InvalidRequest``.

    ``file`` is the trace file, empty if there is none.
    """
    values: dict[str, bool | int] = {}
    cleared = set()
    for name, texts in stated.items():
        if name not in NAMES:
            raise InvalidRequest(
                "settings", got=repr(shown(name)), expected=f"one of {', '.join(NAMES)}"
            )
        if name not in _FIELDS:
            _check_fixed(name, texts, {"trace_file": file, "trace_mode": "triton"}[name])
        elif not texts:
            cleared.add(_FIELDS[name])
        else:
            values[_FIELDS[name]] = _READERS[name](f"settings.{name}", texts)
    if values.get("timestamps") and not file:
        raise InvalidRequest(
            "settings.trace_level",
            got="TIMESTAMPS",
            expected="OFF, as the server was started without trace_file: set it, and start anew",
        )
    return TraceChange(values, frozenset(cleared))


def _shown(texts: Sequence[str]) -> str:
    return shown(", ".join(texts)) or "nothing"


def _check_fixed(name: str, texts: Sequence[str], value: str) -> None:
    if list(texts) not in ([], [value]):
        raise InvalidRequest(
            f"settings.{name}",
            got=_shown(texts),
            expected=f"{value!r}, which was fixed when the server was started",
        )


def _read_level(field: str, texts: Sequence[str]) -> bool:
    if list(texts) in (["OFF"], ["TIMESTAMPS"]):
        return texts[0] == "TIMESTAMPS"
    raise InvalidRequest(field, got=_shown(texts), expected="OFF or TIMESTAMPS")


def _at_least(least: int) -> Callable[[str, Sequence[str]], int]:
    def read(field: str, texts: Sequence[str]) -> int:
        try:
            (text,) = texts
            if text.isascii() and least <= (number := int(text)) < 2**63:
                return number
        except ValueError:
            pass
        raise InvalidRequest(
            field, got=_shown(texts), expected=f"a whole number of at least {least}"
        )

    return read


_READERS: Mapping[str, Callable[[str, Sequence[str]], bool | int]] = {
    "trace_level": _read_level,
    "trace_rate": _at_least(1),
    "trace_count": _at_least(-1),
    "log_frequency": _at_least(0),
}
