"""Sequences as lines of JSON, answered line by line while the request is still being sent."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from contextlib import aclosing
from itertools import islice
from typing import Annotated

import msgspec
import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from seqlens.api.core import Core
from seqlens.api.failures import answerable
from seqlens.api.off_loop import off_loop_if_large
from seqlens.api.outcomes import Outcome
from seqlens.api.requests import SequenceRequest
from seqlens.api.rest.body import check_headers
from seqlens.api.rest.json_text import mismatch, read_json
from seqlens.api.rest.lines import Line, Lines, decompressed
from seqlens.api.rest.sequence_answers import JSON_COST, Json, to_json, write_error, write_outcome
from seqlens.api.rest.sequence_json import read_sequence
from seqlens.api.stream import Group, Pending
from seqlens.api.streaming import Caller, Streaming, StreamMessage, StreamOptions
from seqlens.errors import AnswerTooLarge, InvalidRequest, SeqLensError
from seqlens.repository.loading import LoadedModel
from seqlens.sequences import SequenceAnswer, array_bytes

MEDIA_TYPE = "application/x-ndjson"
MEDIA_TYPES = frozenset(
    [MEDIA_TYPE, *(f"application/{name}" for name in ("ndjson", "jsonl", "jsonlines"))]
)
HEADERS = {
    "content-type": MEDIA_TYPE,
    "cache-control": "no-store",
    "x-accel-buffering": "no",  # nginx would hold answers back
}

# Lines that are read together may share a batch; the window may be passed by so many.
LINES_TOGETHER = 64

_VALUE = msgspec.json.Decoder(msgspec.Raw)
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_NAMED = {"id", "sequence"}


class StreamQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Options of a stream, in the query of its URL."""

    version: str = ""
    outputs: str = ""  # names, separated by commas
    priority: Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)] = 0
    window: Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)] = 0
    timeout_seconds: Annotated[float, msgspec.Meta(gt=0)] | None = None
    keep_order: bool = False


def answer_lines(core: Core, request: Request) -> Response:
    """Answer each line of the body as it comes. Raises ``SeqLensError`` for wrong options."""
    query = read_query(request)
    options = StreamOptions(
        model=request.path_params["model"],
        version=query.version,
        outputs=[name for name in query.outputs.split(",") if name],
        priority=query.priority,
        keep_order=query.keep_order,
        window=query.window,
        timeout_seconds=query.timeout_seconds,
    )
    encodings = check_headers(request.scope["headers"], None)
    caller = Caller("rest", time_remaining=lambda: None, why_left=lambda: "CANCELLED")
    stream = Streaming(core, options, caller)
    return _LinesAnswer(stream, encodings, core.settings.limits.max_message_bytes)


def read_query(request: Request) -> StreamQuery:
    """Options in the query of a URL. Raises ``InvalidRequest``."""
    try:
        return msgspec.convert(dict(request.query_params), StreamQuery, strict=False)
    except msgspec.ValidationError as error:
        raise mismatch(error, "query") from None


class _LinesAnswer(Response):
    """Lines of answers, sent while those of the request are read."""

    def __init__(self, stream: Streaming, encodings: Sequence[str], most_bytes: int) -> None:
        self.background = None
        self._stream, self._encodings, self._most_bytes = stream, encodings, most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read and answer until the body has ended and all is answered, or the client leaves."""
        # A client that waits for "100 Continue" gets it when the body is asked for, and never
        # once the answer has begun.
        first = asyncio.ensure_future(receive())
        await asyncio.sleep(0)
        try:
            await send(_start())
            last = await self._send_answers(_chunks(first, receive), send)
            await send({"type": "http.response.body", "body": last})
        finally:
            first.cancel()

    async def _send_answers(self, chunks: AsyncIterable[bytes], send: Send) -> bytes:
        """Send all answers; returns the line that tells why there are no more, if any."""
        for encoding in reversed(self._encodings):
            chunks = decompressed(chunks, encoding)
        messages = _messages(chunks, self._most_bytes, min(LINES_TOGETHER, self._stream.window))
        try:
            async with aclosing(self._stream.groups(messages)) as groups:
                async for group in groups:
                    size = JSON_COST * _answer_bytes(group)
                    body, told = await off_loop_if_large(size, self._write, group)
                    self._stream.sent(told)
                    await send({"type": "http.response.body", "body": body, "more_body": True})
        except Exception as error:
            return to_json({"error": write_error(answerable(error))}) + b"\n"
        return b""

    def _write(self, group: Group) -> tuple[bytes, Group]:
        """Lines of a group, and the group as they tell it."""
        lines, members = [], []
        for pending, outcome in group.members:
            line, told = self._write_line(group.model, pending, outcome)
            lines.append(line)
            members.append((pending, told))
        return b"".join(lines), Group(group.model, tuple(members))

    def _write_line(
        self, model: LoadedModel | None, pending: Pending, outcome: Outcome
    ) -> tuple[bytes, Outcome]:
        try:
            line = _line(model, pending, write_outcome(model, outcome, self._stream.outputs))
            if len(line) > self._most_bytes:
                raise AnswerTooLarge(len(line), self._most_bytes)
        except InvalidRequest as error:
            return _line(model, pending, {"error": write_error(error)}), error
        return line, outcome


def _start() -> Message:
    headers = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
    return {"type": "http.response.start", "status": 200, "headers": headers}


def _line(model: LoadedModel | None, pending: Pending, written: Json) -> bytes:
    version = {} if model is None else {"version": model.version}
    return to_json({"id": orjson.Fragment(pending.id), **version, **written}) + b"\n"


def _answer_bytes(group: Group) -> int:
    answers = (one for _, one in group.members if isinstance(one, SequenceAnswer))
    return sum(array_bytes(answer.outputs) for answer in answers)


async def _chunks(first: asyncio.Future[Message], receive: Receive) -> AsyncIterator[bytes]:
    message = await first
    while True:
        if message["type"] == "http.disconnect":
            raise asyncio.CancelledError
        yield message.get("body", b"")
        if not message.get("more_body", False):
            return
        message = await receive()


async def _messages(
    chunks: AsyncIterable[bytes], most_bytes: int, together: int
) -> AsyncIterator[StreamMessage]:
    """The lines of a body, as many together as have come. Raises ``MessageTooLarge``."""
    lines = Lines(most_bytes)
    async for chunk in chunks:
        ended = lines.feed(chunk)
        while group := list(islice(ended, together)):
            yield await _message(group)
        if lines.error:
            raise lines.error
        # Chunks of nothing but ends of line must not hold up others.
        await asyncio.sleep(0)
    if last := list(lines.end()):
        yield await _message(last)


async def _message(lines: Sequence[Line]) -> StreamMessage:
    size = sum(len(text) for _, text in lines)
    ids, sequences = await off_loop_if_large(size, _read_lines, lines)

    async def read() -> Sequence[SequenceRequest | SeqLensError]:
        return sequences

    return StreamMessage(ids, read)


def _read_lines(lines: Sequence[Line]) -> tuple[list[str], list[SequenceRequest | SeqLensError]]:
    ids, sequences = zip(*(_read_line(number, text) for number, text in lines), strict=True)
    return list(ids), list(sequences)


def _read_line(number: int, text: bytes) -> tuple[str, SequenceRequest | SeqLensError]:
    """The id of a line as JSON, its number where it has none, and its sequence."""
    name = str(number)
    try:
        sequence = bytes(read_json(_VALUE, text))
        if sequence.startswith(b"{"):
            members = read_json(_OBJECT, sequence)
            if "sequence" in members and members.keys() <= _NAMED:
                sequence = bytes(members["sequence"])
                name = _read_id(members["id"]) if "id" in members else name
        return name, read_sequence(sequence)
    except SeqLensError as error:
        return name, error.at(f"line {number}")


def _read_id(raw: msgspec.Raw) -> str:
    try:
        return bytes(raw).decode()
    except UnicodeDecodeError:
        raise InvalidRequest("id", got="bytes that are not UTF-8", expected="UTF-8") from None
