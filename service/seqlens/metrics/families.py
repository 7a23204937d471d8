"""All metric families, declared once, on the registry that the caller passes in."""

import platform
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    ProcessCollector,
    disable_created_metrics,
)

from seqlens.metrics.histogram import Histogram

LATENCY_SECONDS = tuple(0.0005 * 2**n for n in range(16))  # 0.0005 to 16.384
BATCH_SEQUENCES = tuple(2**n for n in range(9))  # 1 to 256
BATCH_TOKENS = tuple(2**n for n in range(3, 17))  # 8 to 65536


def powers_of_two(limit: int) -> tuple[int, ...]:
    """1, 2, 4, ... up to the first power that reaches ``limit``."""
    return tuple(2**n for n in range((limit - 1).bit_length() + 1))


class RequestFamilies:
    """What callers asked for, and how long it took."""

    def __init__(self, registry: CollectorRegistry, max_sequence_length: int) -> None:
        self.requests = Counter(
            "seqlens_requests_total",
            "Finished requests, whatever their outcome.",
            ("model", "version", "architecture", "protocol", "method", "code"),
            registry=registry,
        )
        self.duration = Histogram(
            "seqlens_request_duration_seconds",
            "Receipt of the request to hand-over of its answer; successes only.",
            ("model", "architecture", "length_bucket"),
            buckets=LATENCY_SECONDS,
            registry=registry,
        )
        self.stages = Histogram(
            "seqlens_stage_duration_seconds",
            "Time spent in one stage of a request.",
            ("model", "architecture", "stage", "length_bucket"),
            buckets=LATENCY_SECONDS,
            registry=registry,
        )
        self.lengths = Histogram(
            "seqlens_sequence_length_tokens",
            "Lengths of the sequences served.",
            ("model",),
            buckets=powers_of_two(max_sequence_length),
            registry=registry,
        )
        self.sequences = Counter(
            "seqlens_sequences_total",
            "Sequences served; a request may hold many.",
            ("model", "architecture", "length_bucket"),
            registry=registry,
        )


class RefusalFamilies:
    """What was refused or given up, sequence by sequence."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.rejected = Counter(
            "seqlens_rejected_total",
            "Sequences refused before any work.",
            ("model", "reason"),
            registry=registry,
        )
        self.cancelled = Counter(
            "seqlens_cancelled_total",
            "Sequences whose caller left, by how far the work had got.",
            ("model", "stage", "cause"),
            registry=registry,
        )


class BatchFamilies:
    """What was executed, and on which worker."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.tokens = Counter(
            "seqlens_tokens_total",
            "Positions executed, by whether they held a token or padding.",
            ("model", "architecture", "kind"),
            registry=registry,
        )
        self.sequences = Histogram(
            "seqlens_batch_size_sequences",
            "Sequences in one execution.",
            ("model",),
            buckets=BATCH_SEQUENCES,
            registry=registry,
        )
        self.positions = Histogram(
            "seqlens_batch_tokens",
            "Positions in one execution, padding included.",
            ("model",),
            buckets=BATCH_TOKENS,
            registry=registry,
        )
        self.batches = Counter(
            "seqlens_batches_total",
            "Executions, by what closed the batch.",
            ("model", "trigger"),
            registry=registry,
        )
        self.busy_seconds = Counter(
            "seqlens_worker_busy_seconds_total",
            "Time that a worker spent executing a model.",
            ("model", "worker"),
            registry=registry,
        )
        self.restarts = Counter(
            "seqlens_worker_restarts_total",
            "Workers that failed and were started again.",
            ("worker",),
            registry=registry,
        )


class InsightFamilies:
    """Looking inside models, apart from plain requests."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.duration = Histogram(
            "seqlens_insight_duration_seconds",
            "Receipt of a request that looks inside a model to the end of its answer; "
            "successes only.",
            ("model", "architecture", "method", "length_bucket"),
            buckets=LATENCY_SECONDS,
            registry=registry,
        )
        self.attention_bytes = Counter(
            "seqlens_attention_bytes_total",
            "Bytes of attention weights drawn for callers.",
            ("model",),
            registry=registry,
        )
        self.waiting = Gauge(
            "seqlens_insight_queue_requests",
            "Requests waiting now to look inside models.",
            registry=registry,
        )


class ModelFamilies:
    """Which models are loaded, and what loading them gave."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.ready = Gauge(
            "seqlens_model_ready",
            "1 while this version answers requests.",
            ("model", "version"),
            registry=registry,
        )
        self.info = Gauge(
            "seqlens_model_info",
            "Constant 1; the labels describe the version.",
            ("model", "version", "architecture", "backend", "device", "precision", "opset"),
            registry=registry,
        )
        self.load_seconds = Gauge(
            "seqlens_model_load_duration_seconds",
            "Time that each phase of loading took.",
            ("model", "version", "phase"),
            registry=registry,
        )
        self.loads = Counter(
            "seqlens_model_loads_total",
            "Attempts to load a version, by result.",
            ("model", "result"),
            registry=registry,
        )
        self.invariance_error = Gauge(
            "seqlens_batch_invariance_max_abs_error",
            "Largest absolute difference between batched and alone, measured at load.",
            ("model", "version"),
            registry=registry,
        )


class Families:
    """Every family of the server, with those of the process and of Python's memory.

    Parameters
    ----------
    registry
        Where the families are registered; never the library's global one.
    max_sequence_length
        Longest sequence served, in tokens: the last bound of the histogram of lengths.
    """

    def __init__(self, registry: CollectorRegistry, *, max_sequence_length: int) -> None:
        # One more series a child, with the time of its creation, that nobody asks for. The
        # library knows this switch for the whole process only.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.requests = RequestFamilies(registry, max_sequence_length)
        self.refusals = RefusalFamilies(registry)
        self.batches = BatchFamilies(registry)
        self.insight = InsightFamilies(registry)
        self.models = ModelFamilies(registry)
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)
        _declare_build(registry)


def _declare_build(registry: CollectorRegistry) -> None:
    info = Gauge(
        "seqlens_build_info",
        "Constant 1; versions of the server and of what it runs models with.",
        ("version", "python", "onnxruntime", "torch"),
        registry=registry,
    )
    packages = [_installed(name) for name in ("onnxruntime", "torch")]
    info.labels(_installed("seqlens"), platform.python_version(), *packages).set(1)


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # an optional package: its label stays empty
        return ""
