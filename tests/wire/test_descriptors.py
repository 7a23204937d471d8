"""Our messages against those of tritonclient, number by number."""

from collections.abc import Iterator

import pytest
from google.protobuf.descriptor import (
    Descriptor,
    EnumDescriptor,
    FieldDescriptor,
    MethodDescriptor,
)
from google.protobuf.descriptor import FileDescriptor as File
from tritonclient.grpc import model_config_pb2 as their_config
from tritonclient.grpc import service_pb2 as theirs

from seqlens_wire.pb import model_config_pb2 as our_config
from seqlens_wire.pb import open_inference_pb2 as ours
from seqlens_wire.services import OPEN_INFERENCE, reflection_pool

PAIRS = ((ours.DESCRIPTOR, theirs.DESCRIPTOR), (our_config.DESCRIPTOR, their_config.DESCRIPTOR))
# Of the standard, and unknown to tritonclient.
ADDED = {"ModelMetadataResponse.properties", "ModelMetadataResponse.PropertiesEntry"}


def local(full_name: str) -> str:
    """Name without the package."""
    return full_name.removeprefix("seqlens.").removeprefix("inference.")


def messages(holder: File | Descriptor) -> Iterator[Descriptor]:
    nested = (
        holder.message_types_by_name if isinstance(holder, File) else holder.nested_types_by_name
    )
    for message in nested.values():
        yield message
        yield from messages(message)


def enums(file: File) -> Iterator[EnumDescriptor]:
    yield from file.enum_types_by_name.values()
    for message in messages(file):
        yield from message.enum_types


def shape_of_field(field: FieldDescriptor) -> tuple[object, ...]:
    referred = field.message_type or field.enum_type
    return (
        field.number,
        field.type,
        field.is_repeated,
        field.is_packed,
        local(referred.full_name) if referred else None,
        field.containing_oneof.name if field.containing_oneof else None,
    )


def all_messages(file: File) -> dict[str, dict[str, tuple[object, ...]]]:
    return {
        local(message.full_name): {
            field.name: shape_of_field(field)
            for field in message.fields
            if local(field.full_name) not in ADDED
        }
        for message in messages(file)
        if local(message.full_name) not in ADDED
    }


@pytest.mark.parametrize(("our_file", "their_file"), PAIRS)
def test_messages_have_the_same_fields(our_file: File, their_file: File) -> None:
    assert all_messages(our_file) == all_messages(their_file)


@pytest.mark.parametrize(("our_file", "their_file"), PAIRS)
def test_enums_have_the_same_values(our_file: File, their_file: File) -> None:
    def values(file: File) -> dict[str, dict[str, int]]:
        return {local(e.full_name): {v.name: v.number for v in e.values} for e in enums(file)}

    assert values(our_file) == values(their_file)


def test_the_comparison_sees_every_message() -> None:
    assert len(all_messages(ours.DESCRIPTOR)) + len(all_messages(our_config.DESCRIPTOR)) >= 130


def test_properties_of_the_standard_are_there() -> None:
    field = ours.ModelMetadataResponse.DESCRIPTOR.fields_by_name["properties"]
    assert field.number == 6
    assert field.message_type.GetOptions().map_entry


def test_methods_are_the_same() -> None:
    def signature(method: MethodDescriptor) -> tuple[object, ...]:
        return (
            local(method.input_type.full_name),
            local(method.output_type.full_name),
            method.client_streaming,
            method.server_streaming,
        )

    our_service = reflection_pool().FindServiceByName(OPEN_INFERENCE)
    their_service = theirs.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    assert our_service.full_name == their_service.full_name
    assert {m.name: signature(m) for m in our_service.methods} == {
        m.name: signature(m) for m in their_service.methods
    }


def test_bytes_of_a_request_are_the_same() -> None:
    def request(module: object) -> bytes:
        message = module.ModelInferRequest(model_name="m", id="1", raw_input_contents=[b"\1\2"])
        message.inputs.add(name="ids", datatype="INT8", shape=[1, 2])
        message.parameters["priority"].int64_param = 1
        return message.SerializeToString(deterministic=True)

    assert request(ours) == request(theirs)
