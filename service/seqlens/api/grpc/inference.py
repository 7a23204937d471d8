"""Inference of the Open Inference Protocol over gRPC: one request, one answer."""

from seqlens.api.calls import Call
from seqlens.api.core import Core
from seqlens.api.grpc.convert import read_infer_request, request_bytes, write_infer_response
from seqlens.api.grpc.errors import Context, unary, why_left
from seqlens.api.insight.outputs import infer
from seqlens.api.message_bounds import check_answer
from seqlens.api.off_loop import off_loop_if_large
from seqlens_wire.pb import open_inference_pb2 as pb


class GrpcInference:
    """Methods carry the names of the RPCs."""

    def __init__(self, core: Core) -> None:
        self._core = core

    @unary
    async def ModelInfer(
        self, request: pb.ModelInferRequest, context: Context
    ) -> pb.ModelInferResponse:
        """Answer whole tensors; their rows are scheduled each by itself."""
        with self._core.calls.watch("grpc", "infer", lambda: why_left(context)) as call:
            return await answer(self._core, call, request, context)


async def answer(
    core: Core,
    call: Call,
    request: pb.ModelInferRequest,
    context: Context,
    *,
    streamed: bool = False,
) -> pb.ModelInferResponse:
    """Read a request, infer, and write the answer. Raises ``SeqLensError``."""
    # Before it is read, so that what cannot be read is counted for its model as well.
    served = core.models.find(request.model_name, request.model_version)
    call.labels = served.model.metric_labels
    with call.decoding():
        size, remaining = request_bytes(request), context.time_remaining()
        plain = await off_loop_if_large(size, read_infer_request, request, remaining, core.memory)
    response = await infer(core, served, plain, call, streamed=streamed)
    with call.encoding():
        size = sum(output.tensor.array.nbytes for output in response.outputs)
        message = await off_loop_if_large(size, write_infer_response, response, core.memory)
        check_answer(message, core.settings.limits.max_message_bytes)
        return message
