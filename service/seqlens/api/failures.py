"""What callers are told of errors that are not our own; of unforeseen ones an id, no more."""

from secrets import token_hex

import structlog
from google.protobuf.message import DecodeError

from seqlens.errors import InvalidRequest, SeqLensError
from seqlens_wire.tensors import TensorError

_log = structlog.get_logger("seqlens.api")


def answerable(error: BaseException) -> SeqLensError:
    """An error that callers may read.

    Errors of our own tree pass, and bytes that are no message are the caller's fault. Of all
    others the text goes to the log only, under an id that the caller is given.
    """
    if isinstance(error, SeqLensError):
        return error
    if isinstance(error, DecodeError):
        return InvalidRequest("message", got="bytes that cannot be read", expected="a message")
    error_id = token_hex(4)
    _log.error("internal error", error_id=error_id, exc_info=error)
    return SeqLensError(f"internal error, id {error_id}")


def invalid(error: TensorError) -> InvalidRequest:
    """What is wrong with the bytes of a tensor, as an error of ours."""
    return InvalidRequest(error.field, got=error.got, expected=error.expected)
