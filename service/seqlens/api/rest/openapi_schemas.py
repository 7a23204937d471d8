"""JSON Schemas of what REST takes and gives, by name."""

from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from seqlens.api.rest.insight_bodies import AttentionBody, GatesBody, InfluenceBody
from seqlens.api.rest.insight_schemas import (
    AttentionAnswer,
    BertvizAnswer,
    GatesAnswer,
    InfluenceAnswer,
)
from seqlens.api.rest.sequences import ProcessRequest
from seqlens_wire.pb import model_config_pb2
from seqlens_wire.pb import open_inference_pb2 as oip
from seqlens_wire.pb import sequences_pb2 as seqlens

Schema = dict[str, Any]

TEMPLATE = "#/components/schemas/{name}"


def reference(name: str) -> Schema:
    """A schema that stands for one of these."""
    return {"$ref": TEMPLATE.format(name=name)}


class Error(msgspec.Struct):
    """Why a request has no answer: a text, and its parts as far as they are known."""

    error: Annotated[str, msgspec.Meta(min_length=1)]
    field: str | msgspec.UnsetType = msgspec.UNSET
    got: str | msgspec.UnsetType = msgspec.UNSET
    expected: str | msgspec.UnsetType = msgspec.UNSET


class SequenceError(msgspec.Struct):
    """Why one sequence has no answer. ``code`` is the name of a gRPC status."""

    code: str
    message: str
    field: str
    got: str
    expected: str
    retry_after_seconds: float | msgspec.UnsetType = msgspec.UNSET


class FailedSequence(msgspec.Struct):
    """A sequence that has an error instead of an answer."""

    error: SequenceError


class AnsweredSequence(msgspec.Struct):
    """A sequence with its outputs: nested lists, of which NaN is null."""

    length: int
    queue_seconds: float
    compute_seconds: float
    batch_size: int
    padded_length: int
    outputs: dict[str, Any]
    label: str | msgspec.UnsetType = msgspec.UNSET


# Untagged, which msgspec itself would not read: by "error" people and programs tell them apart.
Result = Annotated[
    Any,
    msgspec.Meta(
        extra_json_schema={"anyOf": [reference("AnsweredSequence"), reference("FailedSequence")]}
    ),
]


class ProcessAnswer(msgspec.Struct):
    """Answers in the order of the request; its id is echoed."""

    model: str
    version: str
    id: str
    results: list[Result]


class ListedModel(msgspec.Struct):
    """One version of a model; ``version`` is empty for a model without any."""

    name: str
    version: str
    state: str
    reason: str
    ready: bool
    architecture: str | None


class ModelList(msgspec.Struct):
    """All models and versions of the repository."""

    models: list[ListedModel]


class InputTensor(msgspec.Struct):
    """One input: its data in JSON, flat or nested, behind the JSON, or in shared memory."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    data: list[Any] | msgspec.UnsetType = msgspec.UNSET


class RequestedOutput(msgspec.Struct):
    """An output to answer with, and in which form."""

    name: str
    parameters: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET


class InferRequest(msgspec.Struct):
    """Whole tensors for a model; without outputs all are answered."""

    inputs: list[InputTensor]
    outputs: list[RequestedOutput] | None = None
    id: str | None = None
    parameters: dict[str, Any] | None = None


class OutputTensor(msgspec.Struct):
    """One output: its data in JSON, behind the JSON, or in shared memory."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    data: list[Any] | msgspec.UnsetType = msgspec.UNSET


class InferAnswer(msgspec.Struct):
    """The answer to an inference request."""

    model_name: str
    model_version: str
    id: str
    outputs: list[OutputTensor]


_STRUCTS = (
    Error, ProcessRequest, ProcessAnswer, AnsweredSequence, FailedSequence, ModelList,
    InferRequest, InferAnswer, AttentionBody, AttentionAnswer, BertvizAnswer, InfluenceBody,
    InfluenceAnswer, GatesBody, GatesAnswer,
)  # fmt: skip
_MESSAGES = (
    seqlens.DescribeModelResponse,
    oip.ServerMetadataResponse,
    oip.ModelMetadataResponse,
    model_config_pb2.ModelConfig,
    oip.ModelStatisticsResponse,
    oip.RepositoryIndexResponse,
    oip.SystemSharedMemoryStatusResponse,
)
_NUMBERS = {
    FieldDescriptor.CPPTYPE_INT32: "integer",
    FieldDescriptor.CPPTYPE_INT64: "integer",
    FieldDescriptor.CPPTYPE_UINT32: "integer",
    FieldDescriptor.CPPTYPE_UINT64: "integer",
    FieldDescriptor.CPPTYPE_DOUBLE: "number",
    FieldDescriptor.CPPTYPE_FLOAT: "number",
    FieldDescriptor.CPPTYPE_BOOL: "boolean",
    FieldDescriptor.CPPTYPE_STRING: "string",
}


def schemas() -> dict[str, Schema]:
    """All of them, sorted by name."""
    found: dict[str, Schema] = {}
    for message in _MESSAGES:
        for descriptor in _reached(message.DESCRIPTOR, set()):
            found[name_of(descriptor)] = _message(descriptor)
    found["ModelMetadataResponse"]["required"].remove("properties")
    found["ModelIndex"]["required"].remove("version")
    _, structs = msgspec.json.schema_components(_STRUCTS, ref_template=TEMPLATE)
    # As they are read from JSON: in Python a default may be a tuple, which is no list.
    structs = msgspec.json.decode(msgspec.json.encode(structs))
    return dict(sorted((found | structs).items()))


def name_of(descriptor: Descriptor) -> str:
    """Name of the schema of a message: without its package."""
    own: str = descriptor.name
    outer = descriptor.containing_type
    return own if outer is None or own == "ModelIndex" else f"{name_of(outer)}.{own}"


def _reached(message: Descriptor, seen: set[str]) -> Iterator[Descriptor]:
    if message.full_name in seen:
        return
    seen.add(message.full_name)
    if not message.GetOptions().map_entry:
        yield message
    for field in message.fields:
        if field.message_type is not None:
            yield from _reached(field.message_type, seen)


def _message(message: Descriptor) -> Schema:
    """What ``messages.plain`` writes: all fields but those that know whether they are set."""
    return {
        "type": "object",
        "properties": {field.name: _field(field) for field in message.fields},
        "required": [field.name for field in message.fields if not field.has_presence],
    }


def _field(field: Any) -> Schema:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return {
            "type": "object",
            "additionalProperties": _one(field.message_type.fields_by_name["value"]),
        }
    return {"type": "array", "items": _one(field)} if field.is_repeated else _one(field)


def _one(field: Any) -> Schema:
    if field.message_type is not None:
        return reference(name_of(field.message_type))
    if field.enum_type is not None:
        return {"type": "string", "enum": [value.name for value in field.enum_type.values]}
    return {"type": _NUMBERS[field.cpp_type]}
