"""The JSON of an inference request, as the Open Inference Protocol has it.

Of parameters only those with a meaning are declared: of all others not even a value is made, so
that their size and depth cost nothing.
"""

from typing import Annotated

import msgspec

from seqlens.api.parameters import Parameters

Size = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
# Errors repeat what came: it must not be more than a reader wants to see.
Word = Annotated[str, msgspec.Meta(max_length=1_000)]
Parameter = bool | int | float | Word | None

_NOTHING = msgspec.Raw(b"null")


class Known(msgspec.Struct):
    """Parameters that have a meaning."""

    def values(self) -> Parameters:
        """Those that were given."""
        pairs = ((name, getattr(self, name)) for name in self.__struct_fields__)
        return {name: value for name, value in pairs if value is not None}


class InputParameters(Known):
    """Of an input."""

    binary_data_size: Parameter = None
    shared_memory_region: Parameter = None
    shared_memory_offset: Parameter = None
    shared_memory_byte_size: Parameter = None


class OutputParameters(Known):
    """Of an output that is asked for."""

    binary_data: Parameter = None
    classification: Parameter = None
    shared_memory_region: Parameter = None
    shared_memory_offset: Parameter = None
    shared_memory_byte_size: Parameter = None


class RequestParameters(Known):
    """Of the request."""

    sequence_id: Parameter = None
    priority: Parameter = None
    timeout: Parameter = None
    binary_data_output: Parameter = None


class Input(msgspec.Struct):
    """One tensor, its data in JSON, behind the JSON, or in shared memory."""

    name: str
    datatype: Word
    shape: list[Size]
    parameters: InputParameters | None = None
    data: msgspec.Raw = _NOTHING  # read by datatype later

    @property
    def has_data(self) -> bool:
        """Whether its data is in the JSON."""
        return self.data != _NOTHING


class Output(msgspec.Struct):
    """One output that is asked for."""

    name: str
    parameters: OutputParameters | None = None


class InferMessage(msgspec.Struct):
    """A whole request, or the part in front of the bytes of its tensors."""

    inputs: list[Input]
    outputs: list[Output] | None = None  # none or empty: all
    id: str | None = None
    parameters: RequestParameters | None = None


def given(parameters: Known | None) -> Parameters:
    """The parameters that were given."""
    return {} if parameters is None else parameters.values()
