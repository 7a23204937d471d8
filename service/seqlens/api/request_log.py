"""One log line for each request, while that is switched on."""

import structlog

from seqlens.metrics.observer import Method, ModelLabels

REQUESTS = "seqlens.requests"  # the logger's name


class RequestLog:
    """Writes one line for each request. ``on`` may be switched at any time."""

    def __init__(self, on: bool) -> None:
        self.on = on
        self._log = structlog.get_logger(REQUESTS)

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
