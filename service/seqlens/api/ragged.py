"""One sequence of a ragged request: tensors without batch axis and padding."""

from collections.abc import Mapping, Sequence

from seqlens.api.requests import LengthLimits, NamedTensor
from seqlens.api.rows import input_named
from seqlens.api.validation import (
    check_length,
    check_names,
    check_sequence_tensor,
    describe_sequence,
    optional,
    refuse_values,
    wrong_values,
)
from seqlens.errors import InvalidRequest
from seqlens.graphs.anatomy import InputAnatomy, ModelAnatomy
from seqlens.sequences import Array, InputSequence


def check_sequence(
    anatomy: ModelAnatomy, tensors: Sequence[NamedTensor], *, limits: LengthLimits
) -> InputSequence:
    """Check the tensors of one ragged sequence: no batch axis, time first, no padding.

    Raises ``InvalidRequest``, also for lengths, masks and positions: without padding they say
    nothing, and the server makes them itself.
    """
    check_names(anatomy, [tensor.name for tensor in tensors])
    for tensor in tensors:
        spec = input_named(anatomy, tensor.name)
        if spec.made_by_server:
            raise InvalidRequest(
                f"inputs.{spec.name}",
                got=f"{spec.role.value} of a ragged sequence",
                expected="nothing: the server makes this input itself",
            )
        check_sequence_tensor(spec, tensor)
    arrays = {tensor.name: tensor.array for tensor in tensors}
    length = _length(anatomy, arrays, limits)
    for name, array in arrays.items():
        spec = input_named(anatomy, name)
        refuse_values(spec, array, wrong_values(spec, array))
    return InputSequence(arrays, length)


def _length(anatomy: ModelAnatomy, arrays: Mapping[str, Array], limits: LengthLimits) -> int:
    timed = [s for s in anatomy.sequence_inputs if s.time_axis is not None]
    lengths = {spec.name: len(arrays[spec.name]) for spec in timed}
    if not lengths:
        return 0
    first, length = next(iter(lengths.items()))
    check_length(f"inputs.{first}", length, limits)
    for name, found in lengths.items():
        if found != length:
            raise InvalidRequest(
                f"inputs.{name}",
                got=f"length {found}",
                expected=f"length {length}, as in {first!r}",
            )
    return length


def text_input(anatomy: ModelAnatomy) -> InputAnatomy:
    """The input that takes a tokenizer's ids.

    Raises ``InvalidRequest`` when there is none, or when the model needs more than ids.
    """
    needed = [spec for spec in anatomy.inputs if not optional(spec)]
    if len(needed) == 1 and needed[0].vocabulary_size is not None:
        return needed[0]
    raise InvalidRequest(
        "text",
        got="a text",
        expected="tensors: " + ", ".join(f"{s.name} {describe_sequence(s)}" for s in needed),
    )
