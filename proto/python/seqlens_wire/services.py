"""The services by their names on the wire: how to offer them and how to describe them.

Clients use the generated stubs (``open_inference_pb2_grpc.GRPCInferenceServiceStub`` and
``sequences_pb2_grpc.SequenceServiceStub``), whose paths carry the same names.
"""

from collections.abc import Callable
from importlib.resources import files
from typing import Any

import grpc
import grpc.aio
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from seqlens_wire.pb import open_inference_pb2, sequences_pb2

OPEN_INFERENCE = "inference.GRPCInferenceService"
SEQUENCES = "seqlens.v1.SequenceService"

_DESCRIPTORS: dict[str, ServiceDescriptor] = {
    OPEN_INFERENCE: open_inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"],
    SEQUENCES: sequences_pb2.DESCRIPTOR.services_by_name["SequenceService"],
}


def method_names(service: str) -> list[str]:
    """Names of the RPCs of OPEN_INFERENCE or SEQUENCES."""
    return [method.name for method in _DESCRIPTORS[service].methods]


def add_servicer(server: grpc.aio.Server | grpc.Server, service: str, servicer: object) -> None:
    """Offer those methods of a service that ``servicer`` has; others answer UNIMPLEMENTED.

    ``service`` is OPEN_INFERENCE or SEQUENCES. Methods have the names of the RPCs and the
    signatures that grpc expects: ``async def ModelInfer(self, request, context)``. A request
    that is no such message is given to its method as the ``DecodeError``: raised in here, it
    would end the call with UNKNOWN. That of a stream is raised where the stream is read.
    """
    handlers = {
        method.name: _method_handler(method, getattr(servicer, method.name))
        for method in _DESCRIPTORS[service].methods
        if hasattr(servicer, method.name)
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))


def _method_handler(
    method: MethodDescriptor, behaviour: Callable[..., Any]
) -> "grpc.RpcMethodHandler[Any, Any]":
    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[method.client_streaming, method.server_streaming]
    read = GetMessageClass(method.input_type).FromString
    return make(
        behaviour,
        request_deserializer=read if method.client_streaming else _message_or_error(read),
        response_serializer=GetMessageClass(method.output_type).SerializeToString,
    )


def _message_or_error(read: Callable[[bytes], Message]) -> Callable[[bytes], Message | DecodeError]:
    def message_or_error(data: bytes) -> Message | DecodeError:
        try:
            return read(data)
        except DecodeError as error:
            return error

    return message_or_error


def reflection_pool(*others: FileDescriptor) -> DescriptorPool:
    """Descriptors of both services under their names on the wire, for server reflection.

    A pool of its own: in the default one the names ``inference.*`` belong to whoever else speaks
    the protocol in this process. ``others`` are files to describe as well, such as health.
    """
    pool = DescriptorPool()
    described = FileDescriptorSet.FromString(
        files("seqlens_wire.pb").joinpath("descriptors.binpb").read_bytes()
    )
    for file in described.file:
        pool.Add(file)
    for other in others:
        copy = FileDescriptorProto()
        other.CopyToProto(copy)
        pool.Add(copy)
    return pool
