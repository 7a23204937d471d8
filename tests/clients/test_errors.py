import copy
import pickle
from typing import Any

import grpc
import pytest

import seqlens_client as sdk
from seqlens_client._errors import error_of_call, error_of_sequence
from seqlens_wire.pb.sequences_pb2 import SequenceError


class FailedCall(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode, details: str | None, metadata: Any = ()) -> None:
        self.code = lambda: code
        self.details = lambda: details
        self.trailing_metadata = lambda: metadata


@pytest.mark.parametrize("code", list(grpc.StatusCode))
def test_every_status_has_a_class_and_both_ways_give_the_same(code: grpc.StatusCode) -> None:
    call = error_of_call(FailedCall(code, "why"))
    sequence = error_of_sequence(SequenceError(code=code.name, message="why"), None)
    assert type(call) is type(sequence)
    assert isinstance(call, sdk.SeqLensError)
    assert (call.code, call.message, str(call)) == (code.name, "why", "why")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("INVALID_ARGUMENT", sdk.InvalidInput),
        ("NOT_FOUND", sdk.ModelNotFound),
        ("RESOURCE_EXHAUSTED", sdk.Overloaded),
        ("DEADLINE_EXCEEDED", sdk.DeadlineExceeded),
        ("UNAVAILABLE", sdk.Unavailable),
        ("CANCELLED", sdk.Cancelled),
        ("INTERNAL", sdk.ServerError),
        ("FAILED_PRECONDITION", sdk.ServerError),
        ("UNIMPLEMENTED", sdk.NotOffered),
        ("UNAUTHENTICATED", sdk.NotAuthenticated),
        ("PERMISSION_DENIED", sdk.NotPermitted),
        ("A_CODE_OF_TOMORROW", sdk.ServerError),
    ],
)
def test_each_kind_has_its_class(code: str, kind: type[sdk.SeqLensError]) -> None:
    assert type(error_of_sequence(SequenceError(code=code), 3)) is kind


def test_a_call_without_details_still_says_something() -> None:
    assert str(error_of_call(FailedCall(grpc.StatusCode.UNKNOWN, None))) == "UNKNOWN"


def test_a_sequence_may_say_when_to_come_back() -> None:
    error = SequenceError(code="RESOURCE_EXHAUSTED", retry_after_seconds=1.5)
    assert error_of_sequence(error, 0).retry_after == 1.5
    assert error_of_sequence(SequenceError(code="RESOURCE_EXHAUSTED"), 0).retry_after is None


def test_an_error_has_all_its_parts_and_can_be_moved_to_another_place() -> None:
    error = SequenceError(
        code="RESOURCE_EXHAUSTED",
        message="full",
        field="model_name",
        got="9",
        expected="less",
        retry_after_seconds=2,
    )
    moved = error_of_sequence(error, 3).at(4)
    assert type(moved) is sdk.Overloaded
    assert (moved.code, moved.message, moved.index) == ("RESOURCE_EXHAUSTED", "full", 4)
    assert (moved.field, moved.got, moved.expected) == ("model_name", "9", "less")
    assert moved.retry_after == 2
    assert str(moved) == "sequence 4: full"


def test_errors_travel_between_processes() -> None:
    error = error_of_sequence(
        SequenceError(code="RESOURCE_EXHAUSTED", message="full", got="9", retry_after_seconds=2), 3
    )
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is sdk.Overloaded
        assert str(again) == "sequence 3: full"
        assert (again.code, again.got, again.retry_after, again.index) == (error.code, "9", 2, 3)


def test_tracebacks_name_errors_as_users_import_them() -> None:
    assert sdk.ModelNotFound.__module__ == sdk.SeqLensError.__module__ == "seqlens_client"


def test_no_server_at_an_address_is_told_in_plain_words() -> None:
    client = sdk.Client("127.0.0.1:1", timeout=5)
    with client, pytest.raises(sdk.Unavailable) as caught:
        client.models()
    said = "no connection to 127.0.0.1:1: Connection refused; is a server running there?"
    assert str(caught.value) == said


def test_the_port_of_rest_is_told_from_that_of_grpc(server: Any) -> None:
    client = sdk.Client(server.rest, timeout=5)
    with client, pytest.raises(sdk.Unavailable, match="this port speaks HTTP: gRPC has another"):
        client.models()


def test_a_server_without_tls_is_told(target: str) -> None:
    client = sdk.Client(target, timeout=5, credentials=sdk.tls())
    with client, pytest.raises(sdk.Unavailable, match=r"does this server speak TLS\?"):
        client.models()


@pytest.mark.parametrize("target", ["http://127.0.0.1:8001", "https://here", "", None, 8001])
def test_a_target_that_is_none_is_refused_at_once(target: Any) -> None:
    with pytest.raises(ValueError, match=r"target: got .*expected HOST:PORT"):
        sdk.Client(target)
