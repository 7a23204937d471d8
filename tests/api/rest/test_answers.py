"""Answers: compressed as clients ask for it; errors with their parts."""

import gzip
import zlib
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from tests.support.http_wire import ask, head

from seqlens.api.rest.answers import error_answer
from seqlens.errors import (
    BodyTooLarge,
    InvalidRequest,
    NotAuthenticated,
    Overloaded,
    SeqLensError,
    UnknownEncoding,
)


@pytest.mark.parametrize(
    ("accept", "encoding", "unpack"),
    [
        ("gzip", "gzip", gzip.decompress),
        ("deflate, gzip;q=0.5", "deflate", zlib.decompress),
        ("gzip;q=0", None, bytes),
        ("identity", None, bytes),
        ("br", None, bytes),
    ],
)
@pytest.mark.parametrize("size", [1_024, 3_000_000])
def test_large_answers_are_compressed_as_the_client_likes(
    size: int, accept: str, encoding: str | None, unpack: Callable[[bytes], bytes], probe: Any
) -> None:
    answer = ask(probe.address, head("GET", f"/bytes/{size}", f"Accept-Encoding: {accept}"))
    assert answer.headers.get("content-encoding") == encoding
    assert answer.headers["vary"] == "accept-encoding"
    assert unpack(answer.body) == bytes(size)


def test_small_answers_and_those_of_clients_that_do_not_ask_stay_as_they_are(probe: Any) -> None:
    small = ask(probe.address, head("GET", "/bytes/1023", "accept-encoding: gzip"))
    assert "content-encoding" not in small.headers
    assert small.body == bytes(1_023)
    assert ask(probe.address, head("GET", "/bytes/5000")).body == bytes(5_000)


def test_what_is_accepted_may_stand_in_several_headers(probe: Any) -> None:
    lines = ("accept-encoding: br", "accept-encoding: deflate")
    answer = ask(probe.address, head("GET", "/bytes/5000", *lines))
    assert answer.headers["content-encoding"] == "deflate"


@pytest.mark.parametrize(
    ("error", "status", "headers"),
    [
        (InvalidRequest("shape", got="[2]", expected="[1]"), 400, {}),
        (Overloaded("full", retry_after_seconds=0.001), 429, {"retry-after": "1"}),
        (Overloaded("full", retry_after_seconds=4.2), 429, {"retry-after": "5"}),
        (NotAuthenticated("no key"), 401, {"www-authenticate": "Bearer"}),
        (UnknownEncoding("which"), 415, {"accept-encoding": "gzip, deflate"}),
        (BodyTooLarge("9 bytes", 8), 413, {"connection": "close"}),
        (SeqLensError("broken"), 500, {}),
    ],
)
def test_errors_have_their_status_and_headers(
    error: SeqLensError, status: int, headers: dict[str, str]
) -> None:
    answer = error_answer(error)
    assert answer.status_code == status
    own = {name: text for name, text in answer.headers.items() if name != "content-length"}
    assert own == {"content-type": "application/json", **headers}
    assert orjson.loads(bytes(answer.body))["error"] == str(error)


def test_errors_tell_their_parts_where_there_are_any() -> None:
    answer = error_answer(InvalidRequest("shape", got="[2]", expected="[1]"))
    assert orjson.loads(bytes(answer.body)) == {
        "error": "shape: got [2], expected [1]",
        "field": "shape",
        "got": "[2]",
        "expected": "[1]",
    }


def test_half_a_surrogate_pair_in_an_error_does_not_break_it() -> None:
    answer = error_answer(InvalidRequest("name", got="\ud800", expected="a name"))
    assert orjson.loads(bytes(answer.body))["got"] == "?"
