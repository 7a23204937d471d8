"""Every setting, declared once: name, type, default, unit and help.

The command line, the ``SEQLENS_*`` environment, the YAML file and the docs table all come from
these classes. The environment is read once, at start.
"""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class SchedulerSettings:
    """How waiting sequences become batches.

    Parameters
    ----------
    max_waiting_tokens
        Tokens that may wait in one model's room before new sequences are refused.
    max_waiting_sequences
        Sequences that may wait in one model's room before new ones are refused.
    max_batch_tokens
        Most tokens in one batch, padding included.
    max_batch_sequences
        Most sequences in one batch.
    ageing_tokens_per_second
        Credit that a waiting sequence earns: after one second it counts as this much shorter.
    max_age_seconds
        A sequence that has waited this long goes before all shorter ones.
    """

    max_waiting_tokens: int = 1_048_576
    max_waiting_sequences: int = 16_384
    max_batch_tokens: int = 4_096
    max_batch_sequences: int = 32
    ageing_tokens_per_second: float = 1_000.0
    max_age_seconds: float = 2.0


@dataclass(frozen=True, slots=True)
class LimitSettings:
    """What a request may ask for.

    Parameters
    ----------
    max_sequence_length
        Longest sequence taken, in tokens, where the model itself sets no lower limit.
    max_message_bytes
        Largest gRPC message taken, in bytes.
    max_concurrent_rpcs
        Calls in progress before gRPC itself refuses more: a high backstop, not a scheduler.
    max_stream_window
        Most unanswered sequences that one stream may have, whatever window it asks for.
    """

    max_sequence_length: int = 4_096
    max_message_bytes: int = 67_108_864
    max_concurrent_rpcs: int = 16_384
    max_stream_window: int = 4_096


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """All settings of ``seqlens serve``.

    Parameters
    ----------
    repository
        Model repository: a folder of models, one model's folder, or a single model file.
    host
        Address to listen on.
    http_port
        Port for REST; 0 picks a free one.
    grpc_port
        Port for gRPC; 0 picks a free one.
    metrics_port
        Port for Prometheus metrics; 0 picks a free one.
    device
        Where models run: auto, cpu, cuda or cuda:N.
    lanes
        Model runs at the same time, each on one thread; 0 means one per core.
    load_workers
        Models loaded at the same time; 0 means one per core.
    cache
        Folder that keeps the proofs of loaded models between restarts.
    drain_seconds
        Time allowed for calls in progress when the server stops, in seconds.
    length_buckets
        Upper bounds of the length ranges in metrics, in tokens.
    log_requests
        Write one log line for each request.
    """

    repository: Path
    host: str = "127.0.0.1"
    http_port: int = 8000
    grpc_port: int = 8001
    metrics_port: int = 8002
    device: str = "auto"
    lanes: int = 0
    load_workers: int = 0
    cache: Path = Path("~/.cache/seqlens")
    drain_seconds: float = 10.0
    length_buckets: tuple[int, ...] = (16, 32, 64, 128, 256, 512, 1024)
    log_requests: bool = False
    scheduler: SchedulerSettings = field(default_factory=SchedulerSettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
