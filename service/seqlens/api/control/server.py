"""Calls about the server as a whole."""

from seqlens import __version__
from seqlens.api.core import Core
from seqlens_wire.pb import open_inference_pb2 as pb

_SHARED_MEMORY = "system_shared_memory"
# What works, and nothing else: calls of all other extensions answer UNIMPLEMENTED.
EXTENSIONS = (
    "classification",
    "model_repository",
    "model_repository(unload_dependents)",
    "schedule_policy",
    "model_configuration",
    _SHARED_MEMORY,
    "binary_tensor_data",
    "parameters",
    "statistics",
    "trace",
    "logging",
)


class ServerCalls:
    """Liveness, readiness, metadata."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def ServerLive(self, request: pb.ServerLiveRequest) -> pb.ServerLiveResponse:
        """True while the process answers at all."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: pb.ServerReadyRequest) -> pb.ServerReadyResponse:
        """True from the end of the first load until the server shuts down."""
        return pb.ServerReadyResponse(ready=self._core.ready())

    async def ServerMetadata(self, request: pb.ServerMetadataRequest) -> pb.ServerMetadataResponse:
        """Name, version and the extensions that work."""
        shared_memory = self._core.settings.shared_memory
        extensions = [one for one in EXTENSIONS if shared_memory or one != _SHARED_MEMORY]
        return pb.ServerMetadataResponse(name="seqlens", version=__version__, extensions=extensions)
