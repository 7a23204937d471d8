"""The one tree of errors, each class with its gRPC status and HTTP code side by side.

Nothing here knows a web framework: the edges in ``api`` turn these into answers.
"""

from http import HTTPStatus
from typing import ClassVar, Self


class SeqLensError(Exception):
    """Base of all errors whose text may reach a caller.

    ``field`` names the part of the request at fault, ``got`` what came and ``expected``
    what would have been right; each may be empty.
    """

    grpc_code: ClassVar[str] = "INTERNAL"
    http_status: ClassVar[HTTPStatus] = HTTPStatus.INTERNAL_SERVER_ERROR

    def __init__(
        self, message: str = "", *, field: str = "", got: str = "", expected: str = ""
    ) -> None:
        self.field, self.got, self.expected = field, got, expected
        super().__init__(message or f"{field}: got {got}, expected {expected}")

    def at(self, place: str) -> Self:
        """The same error, telling in front of its message which part of the request it met."""
        # Subclasses construct differently, and the original may belong to batch mates as well.
        moved = type(self).__new__(type(self))
        moved.__dict__.update(self.__dict__)
        moved.args = (f"{place}: {self}",)
        return moved


class InvalidRequest(SeqLensError):
    """A name, datatype, shape, value or parameter is wrong: the same request will fail again."""

    grpc_code, http_status = "INVALID_ARGUMENT", HTTPStatus.BAD_REQUEST

    def __init__(self, field: str, *, got: str, expected: str) -> None:
        super().__init__(field=field, got=got, expected=expected)


class SequenceTooLong(InvalidRequest):
    """A sequence is longer than the model or the configured limit allows."""

    def __init__(self, field: str, length: int, limit: int) -> None:
        super().__init__(field, got=f"length {length}", expected=f"at most {limit}")


class MessageTooLarge(InvalidRequest):
    """A message asks for more sequences, or holds a longer name or text, than the limits allow."""


class AnswerTooLarge(InvalidRequest):
    """The answer is larger than ``limits.max_message_bytes``: ask for less in one message."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            "answer",
            got=f"{size} bytes",
            expected=f"at most {limit} (limits.max_message_bytes): ask for fewer sequences in one "
            "message, shorter ones, or fewer outputs",
        )


class MapsTooLarge(InvalidRequest):
    """What was asked for is too much to look at; the text says which part would not be."""


class NotInModel(SeqLensError):
    """The model has nothing of what was asked for, such as attention; the text says what it has."""

    grpc_code, http_status = "FAILED_PRECONDITION", HTTPStatus.UNPROCESSABLE_ENTITY


class ModelNotFound(SeqLensError):
    """No such model, or no such version of it, in the repository."""

    grpc_code, http_status = "NOT_FOUND", HTTPStatus.NOT_FOUND

    def __init__(self, name: str, version: str, known: str) -> None:
        what = f"{name!r}" + (f" version {version!r}" if version else "")
        super().__init__(
            f"model {what} is not in the repository; known: {known or 'none'}",
            field="model_version" if version else "model_name",
            got=version or name,
            expected=known,
        )


class ModelNotReady(SeqLensError):
    """The model is known but loading, unloading or failed; the text says which and why."""

    grpc_code, http_status = "UNAVAILABLE", HTTPStatus.SERVICE_UNAVAILABLE


class Draining(SeqLensError):
    """The server is shutting down and takes no new work."""

    grpc_code, http_status = "UNAVAILABLE", HTTPStatus.SERVICE_UNAVAILABLE


class Overloaded(SeqLensError):
    """The model's waiting room is full; ``retry_after_seconds`` says when room is expected.

    Over gRPC that is ``grpc-retry-pushback-ms``, over REST ``Retry-After``.
    """

    grpc_code, http_status = "RESOURCE_EXHAUSTED", HTTPStatus.TOO_MANY_REQUESTS

    def __init__(self, message: str, *, retry_after_seconds: float) -> None:
        self.retry_after_seconds = retry_after_seconds
        super().__init__(message)


class DeadlinePassed(SeqLensError):
    """The time allowed for the request ran out before its work began."""

    grpc_code, http_status = "DEADLINE_EXCEEDED", HTTPStatus.GATEWAY_TIMEOUT


class BodyTooLarge(SeqLensError):
    """The body of an HTTP request is larger than it may be, as sent or decompressed."""

    grpc_code, http_status = "RESOURCE_EXHAUSTED", HTTPStatus.REQUEST_ENTITY_TOO_LARGE

    def __init__(self, got: str, limit: int) -> None:
        super().__init__(
            field="body", got=got, expected=f"at most {limit} bytes (limits.max_message_bytes)"
        )


class BodyTooSlow(SeqLensError):
    """The body of an HTTP request did not arrive within ``limits.body_timeout_seconds``."""

    grpc_code, http_status = "DEADLINE_EXCEEDED", HTTPStatus.REQUEST_TIMEOUT


class UnknownEncoding(SeqLensError):
    """The body of an HTTP request is compressed in another way than gzip or deflate."""

    grpc_code, http_status = "INVALID_ARGUMENT", HTTPStatus.UNSUPPORTED_MEDIA_TYPE


class NotAuthenticated(SeqLensError):
    """The server asks for a key, and the request carries none, or one that it does not know."""

    grpc_code, http_status = "UNAUTHENTICATED", HTTPStatus.UNAUTHORIZED


class NotPermitted(SeqLensError):
    """The settings do not let clients do that: load models, send files, share memory."""

    grpc_code, http_status = "PERMISSION_DENIED", HTTPStatus.FORBIDDEN


class RegionNotFound(SeqLensError):
    """No region of shared memory is registered under this name."""

    grpc_code, http_status = "NOT_FOUND", HTTPStatus.NOT_FOUND


class RegionExists(SeqLensError):
    """A region of shared memory is registered under this name already."""

    grpc_code, http_status = "ALREADY_EXISTS", HTTPStatus.CONFLICT


class NotOffered(SeqLensError):
    """An extension or a feature that this server does not offer."""

    grpc_code, http_status = "UNIMPLEMENTED", HTTPStatus.NOT_IMPLEMENTED


class BackendFailed(SeqLensError):
    """The model itself raised while running, or a worker died."""


class ModelRejected(SeqLensError):
    """A model cannot be loaded; the text says what was found and what would help."""

    grpc_code, http_status = "FAILED_PRECONDITION", HTTPStatus.BAD_REQUEST


class DeviceMissing(ModelRejected):
    """A device was asked for that this machine, or this installation, does not have."""
