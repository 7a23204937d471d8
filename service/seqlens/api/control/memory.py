"""Calls about regions of shared memory."""

from seqlens.api.core import Core
from seqlens.errors import NotPermitted
from seqlens_wire.pb import open_inference_pb2 as pb


class MemoryCalls:
    """Register, list and forget regions of system shared memory."""

    def __init__(self, core: Core) -> None:
        self._memory = core.memory
        self._allowed = core.settings.shared_memory

    async def SystemSharedMemoryStatus(
        self, request: pb.SystemSharedMemoryStatusRequest
    ) -> pb.SystemSharedMemoryStatusResponse:
        """One region, or all of them where the name is empty."""
        response = pb.SystemSharedMemoryStatusResponse()
        for region in self._memory.status(request.name):
            status = response.regions[region.name]
            status.name, status.key = region.name, region.key
            status.offset, status.byte_size = region.offset, region.byte_size
        return response

    async def SystemSharedMemoryRegister(
        self, request: pb.SystemSharedMemoryRegisterRequest
    ) -> pb.SystemSharedMemoryRegisterResponse:
        """Make a region known under a name."""
        if not self._allowed:
            raise NotPermitted("this server takes no shared memory (shared_memory)")
        self._memory.register(request.name, request.key, request.offset, request.byte_size)
        return pb.SystemSharedMemoryRegisterResponse()

    async def SystemSharedMemoryUnregister(
        self, request: pb.SystemSharedMemoryUnregisterRequest
    ) -> pb.SystemSharedMemoryUnregisterResponse:
        """Forget a region, or all of them where the name is empty."""
        self._memory.unregister(request.name)
        return pb.SystemSharedMemoryUnregisterResponse()
