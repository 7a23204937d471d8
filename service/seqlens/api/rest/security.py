"""TLS and keys over REST."""

import ssl

from starlette.types import ASGIApp, Receive, Scope, Send

from seqlens.api.certificates import Certificates
from seqlens.api.keys import Keys
from seqlens.api.watched import Watched

# Whoever only watches over the server, or reads how to use it, needs no key.
OPEN_PATHS = frozenset({"/v2/health/live", "/v2/health/ready", "/openapi.json", "/docs"})
OPEN_FOLDER = "/docs/"


def renewing_context(certificates: Watched[Certificates]) -> ssl.SSLContext:
    """A context that follows the files: OpenSSL asks anew for every connection."""

    def renew(connection: ssl.SSLObject, name: str | None, first: ssl.SSLContext) -> None:
        connection.context = certificates.current().context

    context = certificates.current().context
    # It is called for clients that name no server as well.
    context.sni_callback = renew
    return context


def is_open(path: str) -> bool:
    """Whether what is at a path is for everyone."""
    return path in OPEN_PATHS or path.startswith(OPEN_FOLDER)


class RequireKey:
    """Lets requests pass that carry a key. Raises ``NotAuthenticated`` for all others."""

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self._app, self._keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if not is_open(scope["path"]):
            headers = scope["headers"]
            self._keys.check([value for name, value in headers if name == b"authorization"])
        await self._app(scope, receive, send)
