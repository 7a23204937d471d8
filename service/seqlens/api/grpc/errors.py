"""Errors to gRPC statuses, in one place for all services."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from functools import wraps
from typing import Any, NoReturn, TypeVar

import grpc
from google.protobuf.message import DecodeError
from grpc.aio import AbortError, ServicerContext

from seqlens.api.failures import answerable
from seqlens.errors import Overloaded, SeqLensError
from seqlens_wire.errors import ErrorDetails, to_metadata

Context = ServicerContext[Any, Any]
Servicer = TypeVar("Servicer")
Request = TypeVar("Request")
Response = TypeVar("Response")
Came = TypeVar("Came")  # from gRPC
Given = TypeVar("Given")  # to a method

# Status messages travel as headers, of which many peers take no more than 8 KiB in all.
MAX_MESSAGE_CHARACTERS = 1_000


def unary(
    method: Callable[[Servicer, Request, Context], Awaitable[Response]],
) -> Callable[[Servicer, Request, Context], Awaitable[Response]]:
    """Let a method with one answer raise errors of ours; callers see them as statuses."""

    @wraps(method)
    async def guarded(self: Servicer, request: Request | DecodeError, context: Context) -> Response:
        try:
            return await method(self, readable(request), context)
        except AbortError:
            raise
        except Exception as error:
            await abort(context, answerable(error))

    return guarded


def streaming(
    method: Callable[[Servicer, AsyncIterator[Request], Context], AsyncGenerator[Response, None]],
) -> Callable[[Servicer, AsyncIterator[Request], Context], AsyncGenerator[Response, None]]:
    """The same for a method that takes and gives streams."""
    return wraps(method)(_guarded_stream(method, lambda requests: requests))


def streaming_answer(
    method: Callable[[Servicer, Request, Context], AsyncGenerator[Response, None]],
) -> Callable[[Servicer, Request | DecodeError, Context], AsyncGenerator[Response, None]]:
    """The same for a method that takes one message and gives a stream."""
    return wraps(method)(_guarded_stream(method, readable))


def _guarded_stream(
    method: Callable[[Servicer, Given, Context], AsyncGenerator[Response, None]],
    read: Callable[[Came], Given],
) -> Callable[[Servicer, Came, Context], AsyncGenerator[Response, None]]:
    async def guarded(
        self: Servicer, came: Came, context: Context
    ) -> AsyncGenerator[Response, None]:
        try:
            async with aclosing(method(self, read(came), context)) as responses:
                async for response in responses:
                    yield response
        except AbortError:
            raise
        except Exception as error:
            await abort(context, answerable(error))

    return guarded


def readable(request: Request | DecodeError) -> Request:
    """The request, or the error that ``seqlens_wire.services.add_servicer`` gives in its place."""
    if isinstance(request, DecodeError):
        raise request
    return request


async def abort(context: Context, error: SeqLensError) -> NoReturn:
    """End the call with the error's status, its message, and its parts as trailing metadata."""
    retry_after = error.retry_after_seconds if isinstance(error, Overloaded) else None
    details = ErrorDetails(error.field, error.got, error.expected, retry_after)
    code = grpc.StatusCode[error.grpc_code]
    await context.abort(code, short_message(error), to_metadata(details))


def short_message(error: SeqLensError) -> str:
    """The error's text, or its beginning."""
    message = str(error)
    if len(message) <= MAX_MESSAGE_CHARACTERS:
        return message
    return message[: MAX_MESSAGE_CHARACTERS - 1] + "…"


def why_left(context: Context) -> str:
    """The code of a call whose caller is gone: its deadline passed, or it was cancelled."""
    remaining = context.time_remaining()
    return "CANCELLED" if remaining is None or remaining > 0 else "DEADLINE_EXCEEDED"
