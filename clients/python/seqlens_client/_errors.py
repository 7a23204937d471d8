"""What can go wrong, as one tree of exceptions."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import grpc

from seqlens_client._reasons import readable
from seqlens_wire.datatypes import TensorError
from seqlens_wire.errors import ErrorDetails, Metadata, from_metadata
from seqlens_wire.pb.sequences_pb2 import SequenceError

NO_DETAILS = ErrorDetails()


class SeqLensError(Exception):
    """Base of all errors of this package.

    ``code`` is the name of the gRPC status. ``field`` names the part of the request at fault,
    ``got`` what came and ``expected`` what would have been right; each may be empty.
    ``retry_after`` is the time in seconds after which the server welcomes the same request again,
    None if it did not say. ``index`` is the position of the sequence at fault among those given,
    None if the whole call failed.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str,
        details: ErrorDetails = NO_DETAILS,
        index: int | None = None,
    ) -> None:
        self.message, self.code, self.index = message, code, index
        self.field, self.got, self.expected = details.field, details.got, details.expected
        self.retry_after = details.retry_after_seconds
        self._details = details
        super().__init__(message if index is None else f"sequence {index}: {message}")

    def __reduce__(self) -> tuple[Callable[..., "SeqLensError"], tuple[Any, ...]]:
        # Python copies an exception with its text alone, and so fails to send it between processes.
        return _restore, (type(self), self.message, self.code, self._details, self.index)

    def at(self, index: int) -> Self:
        """The same error of the sequence in another place."""
        return type(self)(self.message, code=self.code, details=self._details, index=index)


def _restore(
    kind: type[SeqLensError], message: str, code: str, details: ErrorDetails, index: int | None
) -> SeqLensError:
    return kind(message, code=code, details=details, index=index)


class InvalidInput(SeqLensError):
    """The request itself is wrong: sending it again cannot help."""


class ModelNotFound(SeqLensError):
    """The server has no such model, or no such version of it."""


class Overloaded(SeqLensError):
    """The model has as much waiting work as it may have: ``retry_after`` says how long."""


class DeadlineExceeded(SeqLensError):
    """The answer did not come within the time allowed."""


class Unavailable(SeqLensError):
    """The server cannot be reached or is shutting down, or the model is not ready."""


class Cancelled(SeqLensError):
    """The call was cancelled by closing the client, or the client had been closed before."""


class NotAuthenticated(SeqLensError):
    """The server asks for a token, and the client has none, or one that it does not know."""


class NotPermitted(SeqLensError):
    """The server knows the caller, or need not, and still does not let clients do this."""


class NotOffered(SeqLensError):
    """The server does not have this call, or not this part of it."""


class NotInModel(SeqLensError):
    """The model has nothing of what is looked for, such as attention; the text says what it has."""


class ServerError(SeqLensError):
    """The server failed, or what it was told to load cannot be served."""


_KINDS: dict[str, type[SeqLensError]] = {
    "INVALID_ARGUMENT": InvalidInput,
    "OUT_OF_RANGE": InvalidInput,
    "NOT_FOUND": ModelNotFound,
    "RESOURCE_EXHAUSTED": Overloaded,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "UNAVAILABLE": Unavailable,
    "CANCELLED": Cancelled,
    "UNAUTHENTICATED": NotAuthenticated,
    "PERMISSION_DENIED": NotPermitted,
    "UNIMPLEMENTED": NotOffered,
}


def error_of_call(error: grpc.RpcError) -> SeqLensError:
    """The error of a call that failed as a whole."""
    call: Any = error  # grpc's types leave out that a failed call is its own error
    return error_of_status(call.code(), call.details(), call.trailing_metadata())


def error_of_status(
    code: grpc.StatusCode, details: str | None, metadata: Metadata | None
) -> SeqLensError:
    """The same, from the parts of a status."""
    kind = _kind(code.name, details or "")
    parts = from_metadata(metadata or ())
    return kind(readable(details or code.name), code=code.name, details=parts)


def error_of_sequence(error: SequenceError, index: int | None) -> SeqLensError:
    """The error of one sequence of a call."""
    retry_after = error.retry_after_seconds if error.HasField("retry_after_seconds") else None
    details = ErrorDetails(error.field, error.got, error.expected, retry_after)
    kind = _kind(error.code, error.message)
    return kind(error.message or error.code, code=error.code, details=details, index=index)


def error_of_tensor(error: TensorError, index: int | None = None) -> InvalidInput:
    """The error of values that cannot be sent at all."""
    details = ErrorDetails(error.field, error.got, error.expected)
    return InvalidInput(str(error), code="INVALID_ARGUMENT", details=details, index=index)


def invalid(field: str, got: str, expected: str, index: int | None = None) -> InvalidInput:
    """The error of an argument that is wrong, whatever the server."""
    return error_of_tensor(TensorError(field, got=got, expected=expected), index)


@contextmanager
def looking_inside() -> Iterator[None]:
    """Raise ``NotInModel`` for FAILED_PRECONDITION, which is another thing in other calls."""
    try:
        yield
    except ServerError as error:
        if error.code != "FAILED_PRECONDITION":
            raise
        raise NotInModel(error.message, code=error.code, details=error._details) from error


def client_closed() -> Cancelled:
    """The error of a call that needs a client that has been closed."""
    return Cancelled("the client was closed", code="CANCELLED")


def unreadable_answer(reason: str) -> ServerError:
    """The error of an answer that does not agree with itself or with the request."""
    return ServerError(f"the server's answer cannot be read: {reason}", code="INTERNAL")


def _kind(code: str, message: str) -> type[SeqLensError]:
    # gRPC has one code for "too much work" and "too large a message"; only the first passes.
    if code == "RESOURCE_EXHAUSTED" and "message larger than max" in message:
        return InvalidInput
    return _KINDS.get(code, ServerError)
