"""Words that requests choose by, whatever the protocol."""

from collections.abc import Iterable, Sequence
from typing import TypeVar, get_args

from seqlens.api.message_bounds import shown
from seqlens.attention.questions import Measure
from seqlens.attention.selection import MapDatatype, Reduction
from seqlens.errors import InvalidRequest

Word = TypeVar("Word", bound=str)
Value = TypeVar("Value", int, str)

DATATYPES: tuple[MapDatatype, ...] = get_args(MapDatatype)
REDUCTIONS: tuple[Reduction, ...] = get_args(Reduction)
MEASURES: tuple[Measure, ...] = get_args(Measure)


def read_datatype(text: str) -> MapDatatype:
    """In which datatype maps are sent; empty: FP32. Raises ``InvalidRequest``."""
    return _chosen("selection.datatype", text or "FP32", DATATYPES)


def read_reduction(text: str) -> Reduction:
    """How heads become one; empty: they do not. Raises ``InvalidRequest``."""
    return _chosen("selection.reduce_heads", text, REDUCTIONS)


def once(values: Iterable[Value]) -> tuple[Value, ...]:
    """Each value once, in order: a short message may name the same one a million times."""
    return tuple(dict.fromkeys(values))


def read_measures(texts: Sequence[str]) -> tuple[Measure, ...]:
    """Measures of influence, each once; none: occlusion. Raises ``InvalidRequest``."""
    chosen = dict.fromkeys(_chosen("measures", text, MEASURES) for text in texts)
    return tuple(chosen) or ("occlusion",)


def _chosen(field: str, text: str, words: Sequence[Word]) -> Word:
    for word in words:
        if word == text:
            return word
    named = ", ".join(repr(word) for word in words if word)
    raise InvalidRequest(field, got=repr(shown(text)), expected=f"one of {named}")
