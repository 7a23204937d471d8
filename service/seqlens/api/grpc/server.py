"""The gRPC server with all its services: inference, sequences, health and reflection."""

import asyncio

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from seqlens.api.control.calls import ControlCall
from seqlens.api.core import Core
from seqlens.api.grpc.security import KeyInterceptor, server_credentials
from seqlens.api.grpc.sequences import GrpcSequenceService
from seqlens.api.grpc.servicer import inference_servicer
from seqlens.api.security import Security
from seqlens.settings import ServerSettings
from seqlens_wire.services import OPEN_INFERENCE, SEQUENCES, add_servicer, reflection_pool

SERVING = health_pb2.HealthCheckResponse.SERVING
# No call has begun for so long: all that had arrived were taken up, and refused with a code that
# clients repeat.
QUIET_SECONDS = 0.25
# Time for the last answers to leave once they are handed over.
LAST_ANSWER_SECONDS = 0.5
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class GrpcServer:
    """Listens for calls. Must be made inside the running event loop."""

    def __init__(self, core: Core, control: dict[str, ControlCall], security: Security) -> None:
        self._calls = core.calls
        self._certificates = security.certificates
        self._server = grpc.aio.server(
            interceptors=[KeyInterceptor(security.keys)] if security.keys is not None else [],
            options=_options(core.settings),
            maximum_concurrent_rpcs=core.settings.limits.max_concurrent_rpcs,
        )
        add_servicer(self._server, OPEN_INFERENCE, inference_servicer(core, control))
        add_servicer(self._server, SEQUENCES, GrpcSequenceService(core))
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (OPEN_INFERENCE, SEQUENCES, health.SERVICE_NAME, reflection.SERVICE_NAME)
        pool = reflection_pool(health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR)
        reflection.enable_server_reflection(names, self._server, pool=pool)

    async def start(self, address: str) -> int:
        """Listen and return the port. Raises ``RuntimeError`` if that cannot be."""
        if self._certificates is None:
            port = self._server.add_insecure_port(address)
        else:
            credentials = server_credentials(self._certificates)
            port = self._server.add_secure_port(address, credentials)
        await self.set_health(False)
        await self._server.start()
        return port

    async def set_health(self, serving: bool) -> None:
        """Tell the health of the server as a whole and of its services."""
        for name in ("", OPEN_INFERENCE, SEQUENCES):
            await self._health.set(name, SERVING if serving else NOT_SERVING)

    async def set_model_health(self, name: str, serving: bool) -> None:
        """Tell the health of one model, under its name."""
        await self._health.set(name, SERVING if serving else NOT_SERVING)

    async def stop(self, seconds: float) -> None:
        """Turn all health off, take no new calls, and let those in progress finish.

        Ends soon after the last of them, not with those of clients that watch the health:
        they are open for ever.
        """
        await self._health.enter_graceful_shutdown()
        # gRPC itself answers CANCELLED to what it holds and no method has seen yet.
        await self._calls.quiet(QUIET_SECONDS, at_most=seconds / 2)
        stopping = asyncio.create_task(self._server.stop(seconds))
        idling = asyncio.create_task(self._calls.idle())
        await asyncio.wait({stopping, idling}, return_when=asyncio.FIRST_COMPLETED)
        idling.cancel()
        await self._server.stop(min(seconds, LAST_ANSWER_SECONDS))
        await stopping


def _options(settings: ServerSettings) -> list[tuple[str, int]]:
    size = settings.limits.max_message_bytes
    calls = settings.limits.max_concurrent_rpcs
    return [
        ("grpc.max_receive_message_length", size),
        ("grpc.max_send_message_length", size),
        # Otherwise a second server on the same port starts without an error and takes half of
        # the calls.
        ("grpc.so_reuseport", 0),
        # A burst waits here until this process takes its calls up. Beyond 1,000 of them gRPC would
        # cancel some by chance, with a code that says that the caller did it.
        ("grpc.server.max_pending_requests", calls),
        ("grpc.server.max_pending_requests_hard_limit", calls),
        # Clients may keep idle connections alive with a ping every 10 s or less often.
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
    ]
