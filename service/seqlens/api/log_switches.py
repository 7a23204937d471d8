"""Which log lines are written, as clients may set it while the server runs."""

import logging
from dataclasses import dataclass, replace

from seqlens.api.request_log import REQUESTS, RequestLog


@dataclass(frozen=True, slots=True)
class LogSettings:
    """Kinds of lines, each switched by itself; names are those of the protocol."""

    log_info: bool = True
    log_warning: bool = True
    log_error: bool = True
    log_verbose_level: int = 0  # from 1 on there is one line for each request
    log_format: str = "ISO8601"  # our lines carry their time in this form whatever is set


class LogSwitches(logging.Filter):
    """Lets through the lines that are switched on, in everything that the process logs.

    Nothing is touched before the first change: a server that lives in another program leaves
    that program's logs alone.
    """

    def __init__(self, request_log: RequestLog) -> None:
        super().__init__()
        self._requests = request_log
        self.settings = LogSettings(log_verbose_level=int(request_log.on))
        self._filtered: list[logging.Handler] = []

    def change(self, **values: bool | int | str) -> None:
        """Set fields of ``LogSettings``."""
        self.settings = replace(self.settings, **values)  # type: ignore[arg-type]
        self._requests.on = self.settings.log_verbose_level > 0
        # On handlers: a logger's own filter does not see what comes up from those below it.
        for handler in logging.getLogger().handlers:
            if handler not in self._filtered:
                handler.addFilter(self)
                self._filtered.append(handler)

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line is switched on, by how grave it is."""
        if record.name == REQUESTS:
            return self._requests.on
        if record.levelno >= logging.ERROR:
            return self.settings.log_error
        if record.levelno >= logging.WARNING:
            return self.settings.log_warning
        return self.settings.log_info

    def close(self) -> None:
        """Let everything through again."""
        for handler in self._filtered:
            handler.removeFilter(self)
        self._filtered.clear()
