"""One log line for each request, where the settings ask for it."""

import structlog

from seqlens.metrics.observer import Method, ModelLabels


class RequestLog:
    """Listens to requests and writes one line for each."""

    def __init__(self) -> None:
        self._log = structlog.get_logger("seqlens.requests")

    def request_finished(
        self,
        labels: ModelLabels,
        *,
        protocol: str,
        method: Method,
        code: str,
        length: int | None,
        seconds: float,
    ) -> None:
        """Write the line."""
        self._log.info(
            "request",
            model=labels.model,
            version=labels.version,
            protocol=protocol,
            method=method,
            code=code,
            length=length,
            seconds=round(seconds, 6),
        )
