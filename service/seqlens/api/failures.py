"""What callers are told of errors that nobody foresaw: an id, and nothing more."""

from secrets import token_hex

import structlog

from seqlens.errors import SeqLensError

_log = structlog.get_logger("seqlens.api")


def answerable(error: BaseException) -> SeqLensError:
    """An error that callers may read.

    Errors of our own tree pass. Of all others the text goes to the log only, under an id that
    the caller is given.
    """
    if isinstance(error, SeqLensError):
        return error
    error_id = token_hex(4)
    _log.error("internal error", error_id=error_id, exc_info=error)
    return SeqLensError(f"internal error, id {error_id}")
