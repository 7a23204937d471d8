"""Lines of logs that are switched off and on again."""

import logging
from collections.abc import Iterator

import pytest

from seqlens.api.log_switches import LogSwitches
from seqlens.api.request_log import REQUESTS, RequestLog


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture
def kept() -> Iterator[Kept]:
    handler, root = Kept(), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield handler
    root.removeHandler(handler)
    root.setLevel(level)


def log_all() -> None:
    for level in ("info", "warning", "error", "critical"):
        getattr(logging.getLogger("elsewhere"), level)(level)
    logging.getLogger(REQUESTS).info("request")


def test_each_kind_is_switched_by_itself_and_all_come_back_at_the_end(kept: Kept) -> None:
    switches = LogSwitches(RequestLog(on=False))
    for change, expected in (
        ({"log_info": False}, ["warning", "error", "critical"]),
        ({"log_warning": False}, ["error", "critical"]),
        ({"log_info": True, "log_error": False}, ["info"]),
        ({"log_verbose_level": 2}, ["info", "request"]),
        ({"log_info": False}, ["request"]),
    ):
        switches.change(**change)
        log_all()
        assert kept.lines == expected
        kept.lines.clear()
    switches.close()
    log_all()
    assert kept.lines == ["info", "warning", "error", "critical", "request"]


def test_nothing_is_touched_before_the_first_change(kept: Kept) -> None:
    LogSwitches(RequestLog(on=True))
    assert kept.filters == []


def test_the_level_tells_whether_requests_are_logged_from_the_start() -> None:
    assert LogSwitches(RequestLog(on=True)).settings.log_verbose_level == 1
    assert LogSwitches(RequestLog(on=False)).settings.log_verbose_level == 0
