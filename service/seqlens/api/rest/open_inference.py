"""The Open Inference Protocol over REST: everything under ``/v2``."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from seqlens.api.control.calls import ControlCall
from seqlens.api.core import Core
from seqlens.api.insight.outputs import infer
from seqlens.api.off_loop import LARGE_BYTES, off_loop_if_large
from seqlens.api.requests import InferResponse
from seqlens.api.rest.answers import BINARY, JSON, bytes_answer
from seqlens.api.rest.body import read_body
from seqlens.api.rest.control_routes import control_routes
from seqlens.api.rest.model_routes import MODEL_PATHS, model_routes, named
from seqlens.api.rest.tensor_answers import TensorAnswer, write_infer_response
from seqlens.api.rest.tensors import HEADER, TensorRequest, read_header_length, read_infer_request
from seqlens.graphs.anatomy import ModelAnatomy

# A byte of JSON takes as long to read or write as so many that are copied.
JSON_COST = 8


def routes(core: Core, control: dict[str, ControlCall]) -> list[Route]:
    """The routes of the protocol and its extensions; a model may be named with a version."""
    infer = _Infer(core).infer
    return [
        *(Route(f"{path}/infer", infer, methods=["POST"]) for path in MODEL_PATHS),
        *model_routes(core, control),
        *control_routes(core.settings.limits, control),
    ]


class _Infer:
    def __init__(self, core: Core) -> None:
        self._core = core

    async def infer(self, request: Request) -> Response:
        """Answer whole tensors."""
        core = self._core
        with core.calls.watch("rest", "infer", lambda: "CANCELLED") as call:
            # Before it is read, so that what cannot be read is counted for its model as well.
            served = core.models.find(*named(request))
            call.labels = served.model.metric_labels
            body = await read_body(request, core.settings.limits)
            with call.decoding():
                asked = await self._read(request, body, served.model.anatomy)
            response = await infer(core, served, asked.request, call)
            with call.encoding():
                answer = await self._write(response, asked.binary)
            headers = {"content-type": JSON}
            if answer.header_length is not None:
                headers = {"content-type": BINARY, HEADER: str(answer.header_length)}
            return bytes_answer(request, answer.parts, headers=headers)

    async def _read(self, request: Request, body: bytes, anatomy: ModelAnatomy) -> TensorRequest:
        length = read_header_length(request.headers.getlist(HEADER), body)
        cost = _cost(body, len(body) if length is None else length)
        memory = self._core.memory
        return await off_loop_if_large(cost, read_infer_request, body, length, anatomy, memory)

    async def _write(self, response: InferResponse, binary: frozenset[str]) -> TensorAnswer:
        size = sum(output.tensor.array.nbytes for output in response.outputs)
        most = self._core.settings.limits.max_message_bytes
        return await off_loop_if_large(
            JSON_COST * size, write_infer_response, response, binary, self._core.memory, most
        )


def _cost(body: bytes, text_size: int) -> int:
    """Bytes that could be copied in the time that it takes to read a body, or a few more."""
    cost = len(body) + (JSON_COST - 1) * text_size
    if cost <= LARGE_BYTES and b"shared_memory_region" in body[:text_size]:
        return LARGE_BYTES + 1  # as much as a message may hold can lie in there
    return cost
