"""A stream of requests of the Open Inference Protocol, each answered as it is ready."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from functools import partial

from seqlens.api.core import Core
from seqlens.api.failures import answerable
from seqlens.api.grpc.errors import Context, short_message, streaming, why_left
from seqlens.api.grpc.inference import answer
from seqlens.api.message_bounds import check_answer
from seqlens.api.stream_reading import StreamRoom, read_until_drained
from seqlens.errors import AnswerTooLarge, SeqLensError
from seqlens_wire.pb import open_inference_pb2 as pb

# Enough to keep several lanes in work, little enough that a client that leaves wastes nothing.
WINDOW = 256

Answer = pb.ModelStreamInferResponse


class GrpcInferenceStream:
    """Methods carry the names of the RPCs."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._limits = core.settings.limits

    @streaming
    async def ModelStreamInfer(
        self, requests: AsyncIterator[pb.ModelInferRequest], context: Context
    ) -> AsyncGenerator[Answer, None]:
        """Answer whole tensors as they are ready; what is wrong with a request costs no other."""
        with self._core.calls.running():
            window = min(WINDOW, self._limits.max_stream_window)
            answers = _Answers(StreamRoom(window, self._limits.max_message_bytes))
            reading = self._read(requests, answers, context)
            draining = self._core.models.draining
            reader = asyncio.create_task(read_until_drained(reading, draining))
            reader.add_done_callback(lambda _: answers.end())
            try:
                async for response in answers.ready():
                    yield response
                await reader
            finally:
                reader.cancel()
                await answers.close()

    async def _read(
        self,
        requests: AsyncIterator[pb.ModelInferRequest],
        answers: "_Answers",
        context: Context,
    ) -> None:
        async for request in requests:
            answers.start(self._answer(request, context), request.ByteSize())
            await answers.room.wait()

    async def _answer(self, request: pb.ModelInferRequest, context: Context) -> Answer:
        """Each request of a stream counts as one, whatever becomes of it."""
        watch = self._core.calls.watch
        try:
            with watch("grpc", "stream", lambda: why_left(context)) as call:
                response = Answer()
                infer_response = await answer(self._core, call, request, context, streamed=True)
                response.infer_response.CopyFrom(infer_response)
                _mark_as_final(request, response)
                check_answer(response, self._limits.max_message_bytes)
                return response
        except Exception as error:
            return self._refusal(request, answerable(error))

    def _refusal(self, request: pb.ModelInferRequest, error: SeqLensError) -> Answer:
        """What is wrong with a request, and which one it is."""
        response = Answer(error_message=short_message(error))
        told = response.infer_response
        told.id, told.model_name = request.id, request.model_name
        told.model_version = request.model_version
        _mark_as_final(request, response)
        try:
            check_answer(response, self._limits.max_message_bytes)
        except AnswerTooLarge:  # an id of that size is not worth the stream
            response.ClearField("infer_response")
        return response


class _Answers:
    """The requests of one stream that are not answered yet. Used on the event loop only."""

    def __init__(self, room: StreamRoom) -> None:
        self.room = room
        self._running: set[asyncio.Task[Answer]] = set()
        self._done: deque[tuple[Answer, int]] = deque()  # in order of completion, with sizes
        self._changed = asyncio.Event()  # for the writer: something is done, or the end
        self._ended = False

    def start(self, answering: Coroutine[None, None, Answer], size: int) -> None:
        """Begin to answer a request of ``size`` bytes."""
        self.room.take(size)
        task = asyncio.create_task(answering)
        self._running.add(task)
        task.add_done_callback(partial(self._finish, size))

    def end(self) -> None:
        """No more requests will come: ``ready`` ends once all are answered."""
        self._ended = True
        self._changed.set()

    async def ready(self) -> AsyncGenerator[Answer, None]:
        """Answers as they are ready, until the stream has ended."""
        while True:
            while self._done:
                answered, size = self._done.popleft()
                yield answered
                # Only now has the client room for it: until then its reader is held back.
                self.room.give_back(size)
            if self._ended and not self._running:
                return
            self._changed.clear()
            await self._changed.wait()

    async def close(self) -> None:
        """Take back whatever still waits."""
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running)

    def _finish(self, size: int, task: asyncio.Task[Answer]) -> None:
        self._running.discard(task)
        self._changed.set()
        if task.cancelled():
            return
        answered = task.result()
        self.room.resize(size, answered.ByteSize())
        self._done.append((answered, answered.ByteSize()))


def _mark_as_final(request: pb.ModelInferRequest, response: Answer) -> None:
    """A request has one answer, so that it is the last one as well."""
    asks = request.parameters.get("triton_enable_empty_final_response")
    if asks is not None and asks.bool_param:
        response.infer_response.parameters["triton_final_response"].bool_param = True
