"""``inference.GRPCInferenceService`` as a whole: inference, and every other call of it."""

from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

from google.protobuf.message import Message

from seqlens.api.control.calls import ControlCall
from seqlens.api.core import Core
from seqlens.api.failures import answerable
from seqlens.api.grpc.errors import Context, abort, readable
from seqlens.api.grpc.inference import GrpcInference
from seqlens.api.grpc.streaming import GrpcInferenceStream


def inference_servicer(core: Core, control: dict[str, ControlCall]) -> SimpleNamespace:
    """A method for every RPC of the service; see ``seqlens_wire.services.add_servicer``."""
    control = {**control, "ModelMetadata": _without_properties(control["ModelMetadata"])}
    return SimpleNamespace(
        ModelInfer=GrpcInference(core).ModelInfer,
        ModelStreamInfer=GrpcInferenceStream(core).ModelStreamInfer,
        **{name: _control_method(call) for name, call in control.items()},
    )


def _without_properties(call: ControlCall) -> ControlCall:
    """MLServer has a map of another kind in the same field, and its client fails on this one.

    ``ModelConfig`` and ``DescribeModel`` tell the same, and REST, where names tell them apart.
    """

    async def metadata(request: Any) -> Message:
        response = await call(request)
        response.ClearField("properties")
        return response

    return metadata


def _control_method(call: ControlCall) -> Callable[[Any, Context], Awaitable[Message]]:
    async def method(request: Any, context: Context) -> Message:
        try:
            return await call(readable(request))
        except Exception as error:
            await abort(context, answerable(error))

    return method
