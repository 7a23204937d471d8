"""TLS and keys over gRPC."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import grpc
from grpc_health.v1 import health

from seqlens.api.certificates import Certificates
from seqlens.api.grpc.errors import Context, abort
from seqlens.api.keys import Keys
from seqlens.api.watched import Watched
from seqlens.errors import NotAuthenticated
from seqlens_wire.services import OPEN_INFERENCE

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"

# Whoever only watches over the server needs no key.
OPEN_SERVICE = f"/{health.SERVICE_NAME}/"
OPEN_CALLS = frozenset({f"/{OPEN_INFERENCE}/ServerLive", f"/{OPEN_INFERENCE}/ServerReady"})


def server_credentials(certificates: Watched[Certificates]) -> grpc.ServerCredentials:
    """Credentials that follow the files: gRPC asks anew for every connection."""
    used = certificates.current()

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal used
        if (now := certificates.current()) is used:
            return None
        used = now
        return _configuration(now)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(used),
        renewed,  # type: ignore[arg-type]  # None is allowed: no change
        require_client_authentication=used.client_ca is not None,
    )


def _configuration(certificates: Certificates) -> grpc.ServerCertificateConfiguration:
    pair = (certificates.private_key, certificates.chain)
    return grpc.ssl_server_certificate_configuration([pair], certificates.client_ca)


class KeyInterceptor(grpc.aio.ServerInterceptor):
    """Lets calls pass that carry a key; ends all others before anything of them is read."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """The handler of the call, or one that refuses it."""
        method = handler_call_details.method
        if method not in OPEN_CALLS and not method.startswith(OPEN_SERVICE):
            metadata = handler_call_details.invocation_metadata
            try:
                self._keys.check([value for name, value in metadata if name == "authorization"])
            except NotAuthenticated as error:
                return _refusal(error)
        return await continuation(handler_call_details)


def _refusal(error: NotAuthenticated) -> Handler:
    """For all four kinds of method: a stream is refused without waiting for its first message."""

    async def refuse(requests: AsyncIterator[bytes], context: Context) -> None:
        await abort(context, error)

    return grpc.stream_stream_rpc_method_handler(refuse)
