"""What gRPC says of a connection that could not be made, in words that tell what to do."""

import re

_NO_CONNECTION = re.compile(
    r"connections to all backends failing; last error: [A-Z_]+: (?:ipv[46]:)?(\S+): (.*)", re.DOTALL
)
_CLOSED = "Channel closed!"

# What the reason contains, and what it most likely means.
_HINTS = {
    "Connection refused": "is a server running there?",
    "http1.x server": "this port speaks HTTP: gRPC has another one, 8001 by default",
    "WRONG_VERSION_NUMBER": "does this server speak TLS?",
    "CERTIFICATE_VERIFY_FAILED": "name its authority: tls(ca=...), --ca FILE",
    "Hostname Verification Check failed": "the server's certificate is not for this host",
    "Socket closed": "does this server ask for TLS, or for a client's certificate?",
    "Connection reset by peer": "does this server ask for TLS, or for a client's certificate?",
}


def readable(details: str) -> str:
    """The details of a status; those of a failed connection name the address and a likely cause."""
    if details == _CLOSED:
        return "the client was closed"
    if (found := _NO_CONNECTION.fullmatch(details)) is None:
        return details
    address, reason = found.groups()
    reason = reason.removeprefix("Failed to connect to remote host: ")
    hint = next((hint for part, hint in _HINTS.items() if part in reason), None)
    return f"no connection to {address}: {reason}" + (f"; {hint}" if hint else "")
