"""A client of a running server for a command, and what goes wrong told in one line."""

import sys
from collections.abc import Callable

from seqlens.cli.asking import Connection
from seqlens_client import Client, SeqLensError, Unavailable, tls

INTERRUPTED = 130  # what a shell has for a command that Ctrl-C ended


def run_with_client(
    connection: Connection, work: Callable[[Client], int], if_stopped: str = ""
) -> int:
    """The code with which the command ends. What goes wrong is told in one line."""
    try:
        with _connect(connection) as client:
            return work(client)
    except BrokenPipeError:
        raise
    except KeyboardInterrupt:
        print(f"seqlens: interrupted{if_stopped}", file=sys.stderr)
        return INTERRUPTED
    except Unavailable as error:
        print(f"seqlens: {error}{if_stopped}", file=sys.stderr)
        return 1
    except (SeqLensError, OSError, ValueError, ImportError) as error:
        print(f"seqlens: {error}", file=sys.stderr)
        return 1


def _connect(connection: Connection) -> Client:
    parts = (connection.ca, connection.certificate, connection.private_key)
    wants_tls = connection.tls or any(parts)
    credentials = tls(*parts) if wants_tls else None
    return Client(connection.target, credentials=credentials, token=connection.token)
