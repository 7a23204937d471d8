"""What callers may give as a sequence, and how it is packed into messages."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from seqlens_client._errors import error_of_tensor, invalid
from seqlens_wire.datatypes import Array, TensorError, datatype_of
from seqlens_wire.pb import sequences_pb2
from seqlens_wire.ragged import pack

OneSequence = (
    str
    | NDArray[Any]
    | Mapping[str, ArrayLike]
    | Sequence[int]
    | Sequence[float]
    | Sequence[np.integer[Any]]
    | Sequence[np.floating[Any]]
)
"""One sequence: a text; token ids or other numbers; an array whose first axis is time; or the
arrays of several inputs by name."""

ManySequences = (
    Sequence[str]
    | Sequence[NDArray[Any]]
    | Sequence[Mapping[str, ArrayLike]]
    | Sequence[Sequence[int]]
    | Sequence[Sequence[float]]
    | Sequence[Sequence[Sequence[float]]]
    | Sequence[OneSequence]
)

# A message costs the server about as much as a short sequence's own bookkeeping; beyond these
# bounds larger messages gain nothing and hold the first answers back.
MESSAGE_SEQUENCES = 64
MESSAGE_BYTES = 1_000_000
# The server takes a nameless tensor for the one input that callers have to give.
ONLY_INPUT = ""


@dataclass(frozen=True, slots=True)
class Prepared:
    """One sequence, ready to be packed: a text, or arrays by the name of their input."""

    text: str | None
    arrays: Mapping[str, Array]

    @property
    def form(self) -> tuple[object, ...]:
        """Sequences of the same form can share a message."""
        if self.text is not None:
            return ("text",)
        return tuple((name, array.dtype, array.ndim) for name, array in self.arrays.items())

    @property
    def byte_count(self) -> int:
        """Size in bytes, roughly."""
        arrays = sum(array.nbytes for array in self.arrays.values())
        return arrays + len(self.text or "")


def is_many(sequence: object) -> TypeGuard[Sequence[OneSequence]]:
    """Whether this is a list of sequences rather than one sequence.

    An array, a mapping and a text are always one sequence; a list is one if it holds numbers.
    The empty list is a list of no sequences.
    """
    if isinstance(sequence, (str, bytes, Mapping)) or not isinstance(sequence, Sequence):
        return False
    return not sequence or _is_sequence(sequence[0])


def _is_sequence(value: object) -> bool:
    """Whether this is a sequence rather than a number (or a byte string) in one."""
    axes: int | None = getattr(value, "ndim", None)  # of arrays, tensors and columns of any library
    if axes is not None:
        return axes > 0
    return isinstance(value, (str, Mapping, Sequence)) and not isinstance(value, bytes)


def as_list(sequence: Any) -> Any:
    """The list that a column of a table or an array of arrays stands for; else what it is."""
    if hasattr(sequence, "to_list"):  # of pandas and polars; no array or tensor has it
        return sequence.to_list()
    if isinstance(sequence, np.ndarray) and sequence.dtype == object and sequence.ndim == 1:
        first = sequence[0] if sequence.size else None
        return list(sequence) if _is_sequence(first) and not isinstance(first, str) else sequence
    return sequence


def prepare_all(sequence: OneSequence | ManySequences) -> Prepared | list[list[Prepared]]:
    """One sequence prepared, or many in groups of which each fits into one message."""
    sequence = as_list(sequence)
    if is_many(sequence):
        return list(grouped(sequence))
    return prepare(cast(OneSequence, sequence))


def prepare(sequence: OneSequence, index: int | None = None) -> Prepared:
    """Bring one sequence into the form in which it is packed.

    Raises ``InvalidInput`` with ``index`` for what cannot be an array of a datatype of the wire.
    """
    if isinstance(sequence, str):
        return Prepared(_checked_text(sequence, index), {})
    if isinstance(sequence, float) and math.isnan(sequence):  # what pandas has for no text
        raise invalid("sequence", "nan, a missing value", "a text, a list or an array", index)
    named = sequence if isinstance(sequence, Mapping) else {ONLY_INPUT: sequence}
    if not named:
        raise invalid("inputs", "an empty mapping", "an array for each input", index)
    return Prepared(None, {name: _array(name, value, index) for name, value in named.items()})


def _checked_text(text: str, index: int | None) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise invalid("sequence", "half a surrogate pair", "a text", index) from None
    return text


def _array(name: str, value: ArrayLike, index: int | None) -> Array:
    field = f"inputs.{name}" if name else "sequence"
    try:
        array = np.asarray(value)
        if not array.size and not isinstance(value, np.ndarray):
            array = array.astype(np.int64)  # numpy's float64 would hide what is wrong with it
        datatype_of(array, field=field)
    except TensorError as error:
        raise error_of_tensor(error, index) from None
    except ValueError:
        unfit = invalid(field, "rows of different lengths", "a regular array", index)
        raise unfit from None
    except (TypeError, RuntimeError) as error:  # of a tensor that is no plain data
        unfit = invalid(field, f"{type(value).__name__}: {error}", "what numpy can read", index)
        raise unfit from None
    if array.dtype.kind == "O":
        _check_objects(field, array, index)
    return array


def _check_objects(field: str, array: Array, index: int | None) -> None:
    odd = [value for value in array.flat if not isinstance(value, (bytes, str))]
    if not odd:
        return
    # Numbers beside something else become objects as well, and are not what is wrong.
    worst = next((value for value in odd if not isinstance(value, (int, float))), odd[0])
    if array.ndim == 0:
        expected = "a text, a list or an array (for an iterator, use stream)"
        raise invalid(field, _told(worst), expected, index)
    raise invalid(field, f"{_told(worst)} among the values", "numbers or strings", index)


def _told(value: object) -> str:
    """What an object is that cannot be sent."""
    if isinstance(value, int):
        return "an integer of more than 64 bits"
    return "None" if value is None else f"a {type(value).__name__}"


def grouped(
    sequences: Iterable[OneSequence], limit: int = MESSAGE_SEQUENCES
) -> Iterator[list[Prepared]]:
    """Sequences in groups, each of which fits into one message.

    Sequences that are at hand travel together, at most ``limit`` of them; those of a lazy
    iterable travel alone, so that none waits for one that may come later.
    """
    sequences = as_list(sequences)
    if isinstance(sequences, (str, Mapping)):  # to Python iterables as well: of letters and names
        one = "a text" if isinstance(sequences, str) else "a mapping"
        raise invalid("sequences", one, "an iterable of sequences, such as a list of it")
    if not isinstance(sequences, Sequence):
        limit = 1
    prepared = (prepare(sequence, index) for index, sequence in enumerate(sequences))
    return in_messages(prepared, limit)


def in_messages(sequences: Iterable[Prepared | None], limit: int) -> Iterator[list[Prepared]]:
    """The same of sequences that are prepared. At None a message goes off with what is there."""
    group: list[Prepared] = []
    size = 0
    for prepared in sequences:
        if prepared is None:
            if group:
                yield group
                group, size = [], 0
            continue
        size += prepared.byte_count
        if group and (size > MESSAGE_BYTES or prepared.form != group[0].form):
            yield group
            group, size = [], prepared.byte_count
        group.append(prepared)
        if len(group) == limit:
            yield group
            group, size = [], 0
    if group:
        yield group


def pack_group(group: Sequence[Prepared]) -> sequences_pb2.Sequences:
    """One message part for a group of the same form."""
    first = group[0]
    if first.text is not None:
        return sequences_pb2.Sequences(texts=[prepared.text or "" for prepared in group])
    return sequences_pb2.Sequences(
        inputs=[
            pack(name, datatype_of(array), [prepared.arrays[name] for prepared in group])
            for name, array in first.arrays.items()
        ]
    )
