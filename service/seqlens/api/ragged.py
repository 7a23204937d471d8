"""One sequence of a ragged request: tensors without batch axis and padding."""

from collections.abc import Mapping, Sequence

from seqlens.api.requests import LengthLimits, NamedTensor
from seqlens.api.rows import input_named
from seqlens.api.validation import (
    check_length,
    check_names,
    check_sequence_shape,
    describe_sequence,
    refuse_values,
    with_defaults,
    wrong_values,
)
from seqlens.errors import InvalidRequest
from seqlens.graphs.anatomy import InputAnatomy, ModelAnatomy
from seqlens.sequences import Array, InputSequence
from seqlens_wire.tensors import TensorError, conform


def check_sequence(
    anatomy: ModelAnatomy, tensors: Sequence[NamedTensor], limits: LengthLimits
) -> InputSequence:
    """Check the tensors of one ragged sequence: no batch axis, time first, no padding.

    Integers of another datatype are taken where they fit, and numbers of any datatype where
    the model takes floats. Raises ``InvalidRequest``, also for lengths, masks and positions:
    without padding they say nothing, and the server makes them itself.
    """
    tensors = [one if one.name else _named(anatomy, one) for one in tensors]
    check_names(anatomy, [tensor.name for tensor in tensors])
    specs = [input_named(anatomy, tensor.name) for tensor in tensors]
    arrays = {s.name: _checked(s, tensor) for s, tensor in zip(specs, tensors, strict=True)}
    length = _length(anatomy, arrays, limits)
    for spec, array in zip(specs, arrays.values(), strict=True):
        wrong = wrong_values(spec, array)
        if wrong is not None:
            refuse_values(spec, array, wrong)
    return InputSequence(with_defaults(anatomy, arrays, length), length)


def _named(anatomy: ModelAnatomy, tensor: NamedTensor) -> NamedTensor:
    """The tensor under the name of the only input that callers must give."""
    needed = [spec.name for spec in anatomy.inputs if not spec.optional]
    if len(needed) == 1:
        return NamedTensor(needed[0], tensor.datatype, tensor.array)
    raise InvalidRequest("inputs", got="a tensor without a name", expected=", ".join(needed))


def _checked(spec: InputAnatomy, tensor: NamedTensor) -> Array:
    if spec.made_by_server:
        raise InvalidRequest(
            f"inputs.{spec.name}",
            got=f"{spec.role.value} of a ragged sequence",
            expected="nothing: the server makes this input itself",
        )
    try:
        array = conform(tensor.array, spec.datatype, field=f"inputs.{spec.name}")
    except TensorError as error:
        raise InvalidRequest(error.field, got=error.got, expected=error.expected) from None
    check_sequence_shape(spec, array)
    return array


def _length(anatomy: ModelAnatomy, arrays: Mapping[str, Array], limits: LengthLimits) -> int:
    first, length = "", 0
    for spec in anatomy.sequence_inputs:
        if spec.time_axis is None or spec.name not in arrays:
            continue
        found = len(arrays[spec.name])
        if not first:
            check_length(f"inputs.{spec.name}", found, limits)
            first, length = spec.name, found
        elif found != length:
            raise InvalidRequest(
                f"inputs.{spec.name}",
                got=f"length {found}",
                expected=f"length {length}, as in {first!r}",
            )
    return length


def text_tensor(anatomy: ModelAnatomy, token_ids: Array) -> NamedTensor:
    """The input that a tokenizer's ids belong to.

    Raises ``InvalidRequest`` when the model needs more than ids, or none.
    """
    needed = [spec for spec in anatomy.inputs if not spec.optional]
    if len(needed) == 1 and needed[0].vocabulary_size is not None:
        return NamedTensor(needed[0].name, "INT64", token_ids)
    raise InvalidRequest(
        "texts",
        got="a text",
        expected="tensors: " + ", ".join(f"{s.name} {describe_sequence(s)}" for s in needed),
    )
