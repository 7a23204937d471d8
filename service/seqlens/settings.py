"""Every setting, declared once: name, type, default, unit and help.

The command line, the ``SEQLENS_*`` environment, the YAML file and the docs table all come from
these classes. The environment is read once, at start.
"""

import re
from dataclasses import dataclass, field
from math import inf, isfinite
from pathlib import Path

_LAST_PORT = 65_535
_DEVICE = re.compile(r"auto|cpu|cuda(:[0-9]+)?", re.IGNORECASE)


class InvalidSetting(ValueError):
    """A setting is out of its range; the text names it, what came and what was expected."""


def _check(settings: object, names: str, *, least: float, most: float = inf) -> None:
    for name in names.split():
        value = getattr(settings, name)
        if not (isfinite(value) and least <= value <= most):
            top = "" if most == inf else f" and at most {most}"
            raise InvalidSetting(f"{name}: got {value}, expected at least {least}{top}")


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
    default_timeout_seconds
        Time allowed for requests that bring no deadline of their own; 0 allows any.
    default_priority
        Priority of requests that bring none: 1 is the highest; 0 comes last.
    """

    max_waiting_tokens: int = 1_048_576
    max_waiting_sequences: int = 16_384
    max_batch_tokens: int = 4_096
    max_batch_sequences: int = 32
    ageing_tokens_per_second: float = 1_000.0
    max_age_seconds: float = 2.0
    default_timeout_seconds: float = 0.0
    default_priority: int = 0

    def __post_init__(self) -> None:
        _check(self, "max_waiting_tokens max_waiting_sequences", least=1)
        _check(self, "max_batch_tokens max_batch_sequences", least=1)
        _check(self, "ageing_tokens_per_second max_age_seconds", least=0)
        _check(self, "default_timeout_seconds default_priority", least=0)


@dataclass(frozen=True, slots=True)
class LimitSettings:
    """What a request may ask for.

    Parameters
    ----------
    max_sequence_length
        Longest sequence taken, in tokens, where the model itself sets no lower limit.
    max_message_bytes
        Largest gRPC message or REST body, in bytes; of a compressed one, once decompressed.
    max_message_sequences
        Most sequences in one message, or rows in one tensor.
    max_concurrent_rpcs
        Calls in progress before gRPC itself refuses more: a high backstop, not a scheduler.
    max_stream_window
        Most unanswered sequences that one stream may have, whatever window it asks for.
    header_timeout_seconds
        Time that a REST client has to send the head of a request once it has begun, and a new
        connection to begin its first.
    body_timeout_seconds
        Time that a REST client has to send the body of a request, in seconds.
    keep_alive_seconds
        Time that an idle REST connection stays open after an answer, in seconds.
    """

    max_sequence_length: int = 4_096
    max_message_bytes: int = 67_108_864
    max_message_sequences: int = 4_096
    max_concurrent_rpcs: int = 16_384
    max_stream_window: int = 4_096
    header_timeout_seconds: float = 20.0
    body_timeout_seconds: float = 60.0
    keep_alive_seconds: float = 75.0

    def __post_init__(self) -> None:
        _check(self, "max_sequence_length max_message_sequences", least=1)
        _check(self, "max_concurrent_rpcs max_stream_window", least=1)
        _check(self, "header_timeout_seconds body_timeout_seconds keep_alive_seconds", least=0.1)
        # gRPC counts in 32 bits.
        _check(self, "max_message_bytes", least=1, most=2**31 - 1)


@dataclass(frozen=True, slots=True)
class InsightSettings:
    """Looking inside models: attention maps, influence and gates, apart from plain requests.

    Parameters
    ----------
    threads
        Threads that draw maps, beside the lanes that answer plain requests.
    share
        Part of the time that each of them works while plain requests come, from 0.01 to 1.
    max_waiting
        Most requests that wait for these threads before new ones are refused.
    max_bytes
        Largest answer that is drawn, in bytes, predicted before any work.
    max_seconds
        Longest work that is begun for one request, in seconds, predicted before any work.
    idle_seconds
        Time after which a model opened to look inside is closed again, in seconds.
    proof_seconds
        Soft limit of the time in which the sites of an opened model are proved at load.
    """

    threads: int = 1
    share: float = 0.1
    max_waiting: int = 64
    max_bytes: int = 268_435_456
    max_seconds: float = 60.0
    idle_seconds: float = 300.0
    proof_seconds: float = 5.0

    def __post_init__(self) -> None:
        _check(self, "threads max_waiting max_bytes", least=1)
        _check(self, "share", least=0.01, most=1)
        _check(self, "max_seconds idle_seconds proof_seconds", least=0.1)


@dataclass(frozen=True, slots=True)
class SecuritySettings:
    """Who may talk to the server. Without any of it everyone who reaches its ports may.

    Parameters
    ----------
    certificate
        Certificate chain of the server, PEM: gRPC and REST then speak TLS only.
    private_key
        Private key of the certificate, PEM.
    client_ca
        Certificates that those of clients must be signed by, PEM: clients then need one.
    keys
        File with one key a line, of which every request must carry one.
    """

    certificate: Path | None = None
    private_key: Path | None = None
    client_ca: Path | None = None
    keys: Path | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.private_key is None):
            raise InvalidSetting("security: certificate and private_key go together")
        if self.client_ca is not None and self.certificate is None:
            raise InvalidSetting("security.client_ca: expected security.certificate as well")


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
    remote_control
        Let clients load and unload models, and change the trace and log settings.
    accept_model_files
        Let clients send the files of a model that they load.
    shared_memory
        Let clients register shared memory of this machine, of any that the server may open.
    trace_file
        File for the timestamps of traced requests; without it nothing can be traced.
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
    remote_control: bool = True
    accept_model_files: bool = False
    shared_memory: bool = True
    trace_file: Path | None = None
    scheduler: SchedulerSettings = field(default_factory=SchedulerSettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    insight: InsightSettings = field(default_factory=InsightSettings)
    security: SecuritySettings = field(default_factory=SecuritySettings)

    def __post_init__(self) -> None:
        _check(self, "http_port grpc_port metrics_port", least=0, most=_LAST_PORT)
        _check(self, "lanes load_workers drain_seconds", least=0)
        if not _DEVICE.fullmatch(self.device):
            raise InvalidSetting(f"device: got {self.device!r}, expected auto, cpu, cuda or cuda:N")
