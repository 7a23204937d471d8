"""The Open Inference Protocol over gRPC: ``inference.GRPCInferenceService``."""

from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

from google.protobuf.message import Message

from seqlens.api.control.calls import ControlCall
from seqlens.api.core import Core
from seqlens.api.failures import answerable
from seqlens.api.grpc.convert import read_infer_request, write_infer_response
from seqlens.api.grpc.errors import Context, abort, unary, why_left
from seqlens.api.inference import off_loop_if_large
from seqlens.api.message_bounds import check_answer
from seqlens_wire.pb import open_inference_pb2 as pb


def inference_servicer(core: Core, control: dict[str, ControlCall]) -> SimpleNamespace:
    """A method for every RPC of the service; see ``seqlens_wire.services.add_servicer``."""
    inference = GrpcInference(core)
    return SimpleNamespace(
        ModelInfer=inference.ModelInfer,
        **{name: _control_method(call) for name, call in control.items()},
    )


def _control_method(call: ControlCall) -> Callable[[Any, Context], Awaitable[Message]]:
    async def method(request: Any, context: Context) -> Message:
        try:
            return await call(request)
        except Exception as error:
            await abort(context, answerable(error))

    return method


class GrpcInference:
    """Methods carry the names of the RPCs."""

    def __init__(self, core: Core) -> None:
        self._core = core

    @unary
    async def ModelInfer(
        self, request: pb.ModelInferRequest, context: Context
    ) -> pb.ModelInferResponse:
        """Answer whole tensors."""
        core = self._core
        with core.calls.watch("grpc", "infer", lambda: why_left(context)) as call:
            # Before it is read, so that what cannot be read is counted for its model as well.
            served = core.models.find(request.model_name, request.model_version)
            call.labels = served.model.metric_labels
            with call.decoding():
                size, remaining = request.ByteSize(), context.time_remaining()
                plain = await off_loop_if_large(
                    size, read_infer_request, request, remaining, core.memory
                )
            response = await core.inference.infer(served, plain, call)
            with call.encoding():
                answer = write_infer_response(response, core.memory)
                check_answer(answer, core.settings.limits.max_message_bytes)
                return answer
