"""Checks of what a caller sent against what the model takes.

Every error names the field, what came and what was expected, and every check looks at the
cheapest facts first, so that nothing large is touched for a request that is wrong anyway.
"""

from collections import Counter
from collections.abc import Sequence
from difflib import get_close_matches

import numpy as np
from numpy.typing import NDArray

from seqlens.api.requests import LengthLimits, NamedTensor
from seqlens.datatypes import NUMPY_TYPES
from seqlens.errors import InvalidRequest, SequenceTooLong
from seqlens.graphs.anatomy import InputAnatomy, InputRole, ModelAnatomy
from seqlens.sequences import Array, Tensors

_UNSIGNED = {size: np.dtype(f"u{size}") for size in (1, 2, 4, 8)}


def check_names(anatomy: ModelAnatomy, names: Sequence[str]) -> None:
    """Refuse inputs that are unknown, doubled or missing."""
    given = set(names)
    if len(given) == len(names) and anatomy.needed_names <= given <= anatomy.input_names:
        return
    known = [spec.name for spec in anatomy.inputs]
    for name, count in Counter(names).items():
        if name not in known:
            raise InvalidRequest(
                f"inputs.{name}",
                got="an input that the model does not have" + _suggestion(name, known),
                expected=_expected_names(anatomy),
            )
        if count > 1:
            raise InvalidRequest(f"inputs.{name}", got=f"{count} times", expected="once")
    for spec in anatomy.inputs:
        if spec.name not in names and not spec.optional:
            raise InvalidRequest(f"inputs.{spec.name}", got="nothing", expected=describe(spec))


def _suggestion(name: str, known: Sequence[str]) -> str:
    close = get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _expected_names(anatomy: ModelAnatomy) -> str:
    needed = [repr(spec.name) for spec in anatomy.inputs if not spec.optional]
    rest = [repr(spec.name) for spec in anatomy.inputs if spec.optional]
    text = ", ".join(needed)
    return f"{text}; optional: {', '.join(rest)}" if rest else text


def with_defaults(anatomy: ModelAnatomy, inputs: Tensors, length: int) -> Tensors:
    """The inputs of one sequence, with those of its left out ones that have a default."""
    left_out = {
        spec.name: np.full(
            (length, *spec.sequence_shape[1:]), spec.default, NUMPY_TYPES[spec.datatype]
        )
        for spec in anatomy.default_inputs
        if spec.name not in inputs
    }
    return {**inputs, **left_out} if left_out else inputs


def check_outputs(anatomy: ModelAnatomy, names: Sequence[str]) -> tuple[str, ...]:
    """The names of the outputs to answer with; empty ``names`` ask for all.

    Refuses outputs that are unknown or doubled.
    """
    known = anatomy.output_names
    if not names:
        return known
    for name, count in Counter(names).items():
        if name not in known:
            raise InvalidRequest(
                f"outputs.{name}",
                got="an output that the model does not have" + _suggestion(name, known),
                expected=", ".join(map(repr, known)),
            )
        if count > 1:
            raise InvalidRequest(f"outputs.{name}", got=f"{count} times", expected="once")
    return tuple(names)


def check_tensor(spec: InputAnatomy, tensor: NamedTensor) -> None:
    """Refuse a whole tensor of another datatype, rank or fixed size than the model's input."""
    if tensor.datatype != spec.datatype:
        raise InvalidRequest(
            f"inputs.{spec.name}.datatype", got=tensor.datatype, expected=spec.datatype
        )
    _check_shape(spec, tensor.array.shape, spec.open_shape)


def check_sequence_shape(spec: InputAnatomy, array: Array) -> None:
    """The same for the shape of one sequence: without batch axis, the time axis first."""
    _check_shape(spec, array.shape, spec.sequence_shape)


def _check_shape(spec: InputAnatomy, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    rank = len(expected)
    if len(shape) == rank:
        for size, want in zip(shape, expected, strict=True):
            if want not in (-1, size):
                break
        else:
            return
    ranks = (f", rank {len(shape)}", f", rank {rank}") if len(shape) != rank else ("", "")
    raise InvalidRequest(
        f"inputs.{spec.name}.shape",
        got=show_shape(shape) + ranks[0],
        expected=show_shape(expected) + ranks[1],
    )


def check_length(field: str, length: int, limits: LengthLimits) -> None:
    """Refuse empty sequences, those that are too long, and all but the one length that runs."""
    if length < 1:
        raise InvalidRequest(field, got="length 0", expected="at least one position")
    if length > limits.longest:
        raise SequenceTooLong(field, length, limits.longest)
    if limits.only is not None and length != limits.only:
        raise InvalidRequest(
            field,
            got=f"length {length}",
            expected=f"length {limits.only}, the only one that this export runs",
        )


def wrong_values(spec: InputAnatomy, array: Array) -> NDArray[np.bool_] | None:
    """Which elements the model must not see: token ids outside the vocabulary, floats that spread.

    None, found cheaply, stands for no such element.
    """
    if not array.size:
        return None
    if spec.vocabulary_size is not None and array.dtype.kind in "iu":
        # As an unsigned number a negative id is a very large one: one look is enough.
        if array.view(_UNSIGNED[array.itemsize]).max() < spec.vocabulary_size:
            return None
        return np.asarray((array < 0) | (array >= spec.vocabulary_size))
    if spec.role in (InputRole.SEQUENCE, InputRole.STATE) and array.dtype.kind == "f":
        finite = np.isfinite(array)
        return None if finite.all() else ~finite
    return None


def refuse_values(spec: InputAnatomy, array: Array, wrong: NDArray[np.bool_] | None) -> None:
    """Raise ``InvalidRequest`` for the first element that ``wrong`` marks."""
    if wrong is None or not wrong.any():
        return
    place = tuple(int(i) for i in np.argwhere(wrong)[0])
    raise InvalidRequest(
        f"inputs.{spec.name}[{', '.join(map(str, place))}]" if place else f"inputs.{spec.name}",
        got=str(array[place]),
        expected=f"a token id from 0 to {spec.vocabulary_size - 1}"
        if spec.vocabulary_size is not None
        else "a finite number: NaN and infinity would spread to other positions",
    )


def describe(spec: InputAnatomy) -> str:
    """Datatype and shape of an input, for people."""
    return f"{spec.datatype} {show_shape(spec.shape)}"


def describe_sequence(spec: InputAnatomy) -> str:
    """Datatype and shape of an input for one ragged sequence, for people."""
    return f"{spec.datatype} {show_shape(spec.sequence_shape)}"


def show_shape(shape: Sequence[int]) -> str:
    """A shape as it is written in messages."""
    return f"[{', '.join(map(str, shape))}]"
