"""What the server has counted, as plain values with times in seconds."""

from dataclasses import dataclass

from seqlens_wire.pb import open_inference_pb2 as oip

NANOSECONDS = 1e9
MILLISECONDS = 1e3


@dataclass(frozen=True, slots=True)
class Times:
    """How often something happened, and how long it took in all."""

    count: int
    seconds: float

    @property
    def mean_seconds(self) -> float:
        """Time of one, 0 if it never happened."""
        return self.seconds / self.count if self.count else 0.0


@dataclass(frozen=True, slots=True)
class BatchStatistics:
    """Runs of the model with this many sequences."""

    batch_size: int
    compute_input: Times
    compute_infer: Times
    compute_output: Times


@dataclass(frozen=True, slots=True)
class ModelStatistics:
    """One version of one model, counted since it was loaded.

    ``success`` and ``fail`` count requests; the whole time of those that succeeded is in
    ``success``, and its parts are in ``queue`` and the three of compute.
    """

    name: str
    version: str
    last_inference: float | None  # seconds since the epoch; None: there was none
    inference_count: int  # sequences
    execution_count: int  # runs of the model
    success: Times
    fail: Times
    queue: Times
    compute_input: Times
    compute_infer: Times
    compute_output: Times
    batches: tuple[BatchStatistics, ...]

    @property
    def mean_batch_size(self) -> float:
        """Sequences in one run, 0 if there was none."""
        return self.inference_count / self.execution_count if self.execution_count else 0.0


def read_statistics(message: oip.ModelStatisticsResponse) -> list[ModelStatistics]:
    """The statistics in a message."""
    return [_of_model(model) for model in message.model_stats]


def _of_model(model: oip.ModelStatistics) -> ModelStatistics:
    requests = model.inference_stats
    return ModelStatistics(
        name=model.name,
        version=model.version,
        last_inference=model.last_inference / MILLISECONDS if model.last_inference else None,
        inference_count=model.inference_count,
        execution_count=model.execution_count,
        success=_times(requests.success),
        fail=_times(requests.fail),
        queue=_times(requests.queue),
        compute_input=_times(requests.compute_input),
        compute_infer=_times(requests.compute_infer),
        compute_output=_times(requests.compute_output),
        batches=tuple(_of_batch(batch) for batch in model.batch_stats),
    )


def _of_batch(batch: oip.InferBatchStatistics) -> BatchStatistics:
    return BatchStatistics(
        batch_size=batch.batch_size,
        compute_input=_times(batch.compute_input),
        compute_infer=_times(batch.compute_infer),
        compute_output=_times(batch.compute_output),
    )


def _times(message: oip.StatisticDuration) -> Times:
    return Times(message.count, message.ns / NANOSECONDS)
