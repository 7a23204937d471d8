"""Errors in one form, whatever went wrong; paths, queries, methods."""

from typing import Any

import pytest
from tests.support.http_wire import ask, head, post, wire


@pytest.mark.parametrize(
    ("request_head", "status", "told"),
    [
        (head("GET", "/"), 404, "there is nothing at /"),
        (head("GET", "/nowhere"), 404, "/nowhere"),
        (head("GET", "/seen/"), 404, "/seen/"),
        (head("GET", "//seen"), 404, "//seen"),
        (head("GET", "/" + "x" * 5_000), 404, "there is nothing at /xxx"),
        (head("GET", "/caf%C3%A9"), 404, "/caf\u00e9"),
        (head("GET", "/%ff%00%0d%0a"), 404, "there is nothing"),
        (head("OPTIONS", "*"), 404, "*"),
        (head("POST", "/seen", "content-length: 0"), 405, "GET, HEAD"),
        (head("HEAD", "/echo"), 405, ""),
        (head("PURGE", "/echo"), 405, "got PURGE, expected one of POST"),
    ],
)
def test_what_is_not_there_is_told_in_json(
    request_head: str, status: int, told: str, probe: Any
) -> None:
    answer = ask(probe.address, request_head)
    assert answer.status == status
    assert answer.headers["content-type"] == "application/json"
    if not request_head.startswith("HEAD"):
        assert told in answer.error
        assert len(answer.body) < 400


def test_allow_names_the_methods_of_all_routes_of_a_path(probe: Any) -> None:
    answer = ask(probe.address, head("DELETE", "/two-methods"))
    assert answer.headers["allow"] == "GET, HEAD, PUT"


def test_unforeseen_errors_tell_an_id_and_nothing_else(hasty: Any) -> None:
    answer = ask(hasty.address, head("GET", "/fail"))
    assert answer.status == 500
    error_id = answer.error.removeprefix("internal error, id ")
    assert len(error_id) == 8
    logged = [line for line in hasty.log.read_text().splitlines() if error_id in line]
    assert len(logged) == 1
    assert "a secret of the server" in logged[0]


def test_an_answer_that_fails_half_way_ends_without_its_end(hasty: Any) -> None:
    with wire(hasty.address) as connection:
        connection.send(head("GET", "/fail-late"))
        with pytest.raises((AssertionError, ValueError)):
            connection.answer()
    assert ask(hasty.address, head("GET", "/seen")).status == 200


def test_overload_says_when_to_come_again(probe: Any) -> None:
    answer = ask(probe.address, head("GET", "/overloaded"))
    assert (answer.status, answer.headers["retry-after"]) == (429, "2")
    assert answer.error == "come again"


@pytest.mark.parametrize(
    ("path", "seen"),
    [
        ("/path/rnn-onnx", ["rnn-onnx", ""]),
        ("/path/rnn%2Donnx?", ["rnn-onnx", ""]),
        ("/path/a%20b%3F?x=%20&y", ["a b?", "x=%20&y"]),
        ("/path/%C3%BCber", ["\u00fcber", ""]),
        ("http://elsewhere/path/absolute?q=1", ["absolute", "q=1"]),
    ],
)
def test_names_may_be_percent_encoded_and_queries_are_harmless(
    path: str, seen: list[str], probe: Any
) -> None:
    assert ask(probe.address, head("GET", path)).json == seen
    assert ask(probe.address, post(path, b"{}")).json == seen


def test_head_tells_what_get_would_without_the_body(probe: Any) -> None:
    with wire(probe.address) as connection:
        told = connection.send(head("HEAD", "/bytes/2000")).answer(has_body=False)
        got = connection.send(head("GET", "/bytes/2000")).answer()
    assert (told.status, got.status, len(got.body)) == (200, 200, 2_000)
    assert told.headers | {"date": ""} == got.headers | {"date": ""}
