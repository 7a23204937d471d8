"""The Open Inference Protocol over gRPC: ``inference.GRPCInferenceService``."""

from collections.abc import Callable
from typing import Any

from seqlens import __version__
from seqlens.api.calls import Calls
from seqlens.api.convert import read_infer_request, write_infer_response
from seqlens.api.describe_models import model_config, model_metadata, model_statistics
from seqlens.api.grpc_errors import Context, unary, why_left
from seqlens.api.inference import Inference, off_loop_if_large
from seqlens.api.message_bounds import check_answer
from seqlens.api.served import ServedModels
from seqlens.api.statistics import Statistics
from seqlens.errors import NotOffered
from seqlens.repository.loading import LoadedModel
from seqlens.settings import LimitSettings
from seqlens_wire.pb import open_inference_pb2 as pb

# What works, and nothing else: RPCs of all other extensions answer UNIMPLEMENTED.
EXTENSIONS = ("schedule_policy", "model_configuration", "parameters", "statistics")


def _not_offered(rpc: str) -> Callable[[object, Any, Context], Any]:
    @unary
    async def refuse(self: object, request: Any, context: Context) -> Any:
        raise NotOffered(f"{rpc}: this server does not offer that extension")

    return refuse


class GrpcInferenceService:
    """Methods carry the names of the RPCs; see ``seqlens_wire.services.add_servicer``."""

    def __init__(
        self,
        inference: Inference,
        models: ServedModels,
        calls: Calls,
        statistics: Statistics,
        ready: Callable[[], bool],
        limits: LimitSettings,
    ) -> None:
        self._inference = inference
        self._models = models
        self._calls = calls
        self._statistics = statistics
        self._ready = ready
        self._limits = limits

    @unary
    async def ServerLive(
        self, request: pb.ServerLiveRequest, context: Context
    ) -> pb.ServerLiveResponse:
        """True while the process answers at all."""
        return pb.ServerLiveResponse(live=True)

    @unary
    async def ServerReady(
        self, request: pb.ServerReadyRequest, context: Context
    ) -> pb.ServerReadyResponse:
        """True from the end of the first load until the server shuts down."""
        return pb.ServerReadyResponse(ready=self._ready())

    @unary
    async def ModelReady(
        self, request: pb.ModelReadyRequest, context: Context
    ) -> pb.ModelReadyResponse:
        """Whether the model takes requests; false also for one that does not exist."""
        return pb.ModelReadyResponse(ready=self._models.ready(request.name, request.version))

    @unary
    async def ServerMetadata(
        self, request: pb.ServerMetadataRequest, context: Context
    ) -> pb.ServerMetadataResponse:
        """Name, version and the extensions that work."""
        return pb.ServerMetadataResponse(name="seqlens", version=__version__, extensions=EXTENSIONS)

    @unary
    async def ModelMetadata(
        self, request: pb.ModelMetadataRequest, context: Context
    ) -> pb.ModelMetadataResponse:
        """Inputs, outputs, and what was found in the model."""
        model = self._models.repository.get(request.name, request.version)
        return model_metadata(model, self._models.versions(model.name))

    @unary
    async def ModelConfig(
        self, request: pb.ModelConfigRequest, context: Context
    ) -> pb.ModelConfigResponse:
        """How the model is served."""
        model = self._models.repository.get(request.name, request.version)
        return pb.ModelConfigResponse(config=model_config(model))

    @unary
    async def ModelStatistics(
        self, request: pb.ModelStatisticsRequest, context: Context
    ) -> pb.ModelStatisticsResponse:
        """Counts and times of one version, of all versions of a model, or of all models."""
        return pb.ModelStatisticsResponse(
            model_stats=[
                model_statistics(model, self._statistics.of(model.metric_labels))
                for model in self._chosen(request.name, request.version)
            ]
        )

    @unary
    async def RepositoryIndex(
        self, request: pb.RepositoryIndexRequest, context: Context
    ) -> pb.RepositoryIndexResponse:
        """All models of the repository with their states, or only those that are ready."""
        return pb.RepositoryIndexResponse(
            models=[
                pb.RepositoryIndexResponse.ModelIndex(
                    name=entry.name, version=entry.version, state=entry.state, reason=entry.reason
                )
                for entry in self._models.repository.index()
                if entry.state == "READY" or not request.ready
            ]
        )

    @unary
    async def ModelInfer(
        self, request: pb.ModelInferRequest, context: Context
    ) -> pb.ModelInferResponse:
        """Answer whole tensors."""
        with self._calls.watch("grpc", "infer", lambda: why_left(context)) as call:
            # Before it is read, so that what cannot be read is counted for its model as well.
            served = self._models.find(request.model_name, request.model_version)
            call.labels = served.model.metric_labels
            with call.decoding():
                size, remaining = request.ByteSize(), context.time_remaining()
                plain = await off_loop_if_large(size, read_infer_request, request, remaining)
            response = await self._inference.infer(served, plain, call)
            with call.encoding():
                answer = write_infer_response(response)
                check_answer(answer, self._limits.max_message_bytes)
                return answer

    ModelStreamInfer = _not_offered("ModelStreamInfer")
    RepositoryModelLoad = _not_offered("RepositoryModelLoad")
    RepositoryModelUnload = _not_offered("RepositoryModelUnload")
    SystemSharedMemoryStatus = _not_offered("SystemSharedMemoryStatus")
    SystemSharedMemoryRegister = _not_offered("SystemSharedMemoryRegister")
    SystemSharedMemoryUnregister = _not_offered("SystemSharedMemoryUnregister")
    CudaSharedMemoryStatus = _not_offered("CudaSharedMemoryStatus")
    CudaSharedMemoryRegister = _not_offered("CudaSharedMemoryRegister")
    CudaSharedMemoryUnregister = _not_offered("CudaSharedMemoryUnregister")
    TraceSetting = _not_offered("TraceSetting")
    LogSettings = _not_offered("LogSettings")

    def _chosen(self, name: str, version: str) -> list[LoadedModel]:
        repository = self._models.repository
        if version:
            return [repository.get(name, version)]
        if name:
            repository.get(name)  # raises for an unknown model
        return [
            repository.get(entry.name, entry.version)
            for entry in repository.index()
            if entry.state == "READY" and name in ("", entry.name)
        ]
