"""Calls about models: what they are and what they did."""

from seqlens.api.core import Core
from seqlens.api.describe_models import model_config, model_metadata, model_statistics
from seqlens.repository.loading import LoadedModel
from seqlens_wire.pb import open_inference_pb2 as pb


class ModelCalls:
    """Readiness, metadata, configuration, statistics."""

    def __init__(self, core: Core) -> None:
        self._models = core.models
        self._statistics = core.statistics
        self._lanes = core.lanes

    async def ModelReady(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        """Whether the model takes requests; false also for one that does not exist."""
        return pb.ModelReadyResponse(ready=self._models.ready(request.name, request.version))

    async def ModelMetadata(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        """Versions, platform, inputs and outputs; over REST, in ``properties``, what was found."""
        model = self._models.repository.get(request.name, request.version)
        return model_metadata(model, self._models.versions(model.name))

    async def ModelConfig(self, request: pb.ModelConfigRequest) -> pb.ModelConfigResponse:
        """How the model is served, in the form that perf_analyzer reads."""
        model = self._models.repository.get(request.name, request.version)
        return pb.ModelConfigResponse(config=model_config(model, self._lanes))

    async def ModelStatistics(
        self, request: pb.ModelStatisticsRequest
    ) -> pb.ModelStatisticsResponse:
        """Counts and times of one version, of all versions of a model, or of all models."""
        return pb.ModelStatisticsResponse(
            model_stats=[
                model_statistics(model, self._statistics.of(model.metric_labels))
                for model in self._chosen(request.name, request.version)
            ]
        )

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
