"""What every edge, gRPC or REST, is built on."""

from collections.abc import Callable
from dataclasses import dataclass

from seqlens.api.calls import Calls
from seqlens.api.inference import Inference
from seqlens.api.insight.insight import Insight
from seqlens.api.log_switches import LogSwitches
from seqlens.api.served import ServedModels
from seqlens.api.shared_memory import SharedMemory
from seqlens.api.statistics import Statistics
from seqlens.api.tracing import Tracing
from seqlens.settings import ServerSettings


@dataclass(frozen=True, slots=True)
class Core:
    """The parts of the server that answer requests, whatever protocol they came by."""

    settings: ServerSettings
    inference: Inference
    insight: Insight
    models: ServedModels
    calls: Calls
    statistics: Statistics
    memory: SharedMemory
    tracing: Tracing
    logs: LogSwitches
    lanes: int  # threads that models run on
    ready: Callable[[], bool]
