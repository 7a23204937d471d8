"""Certificates and keys that are replaced while the server serves."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc
import pytest
import requests
from tests.conftest import RunningServer
from tests.support.authority import BEARER, KEY, MODEL, Authority, Files, get

import seqlens_client as sdk
from seqlens_wire.pb import open_inference_pb2 as pb
from seqlens_wire.pb.open_inference_pb2_grpc import GRPCInferenceServiceStub

# The server looks at its files once a second.
RENEWED_SECONDS = 10.0


def eventually(condition: Callable[[], bool]) -> None:
    """Wait for what must become true within the time of a renewal."""
    end = time.monotonic() + RENEWED_SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


def lets_in(server: RunningServer, authority: Authority, key: str = KEY) -> bool:
    """Whether new connections over both wires trust the server, are trusted, and have a key."""
    try:
        status = get(server, "/v2", authority, authorization=f"Bearer {key}").status_code
    except requests.exceptions.ConnectionError:
        status = 0
    credentials = authority.credentials()
    # Otherwise gRPC goes on with a connection that it has.
    options = (("grpc.use_local_subchannel_pool", 1),)
    with grpc.secure_channel(server.grpc, credentials, options) as channel:
        metadata = (("authorization", f"Bearer {key}"),)
        call = GRPCInferenceServiceStub(channel).ServerMetadata
        try:
            call(pb.ServerMetadataRequest(), metadata=metadata, timeout=5)
        except grpc.RpcError:
            return False
    return status == 200


@contextmanager
def renewed(files: Files, authority: Authority, before: Authority) -> Iterator[None]:
    files.certify(authority)
    try:
        yield
    finally:
        files.certify(before)


def test_new_connections_see_new_certificates_and_open_ones_go_on(
    secured: RunningServer, files: Files, ours: Authority, other: Authority
) -> None:
    with (
        sdk.Client(secured.grpc, credentials=ours.credentials(), token=KEY) as client,
        requests.Session() as session,
    ):
        url = f"https://{secured.rest}/v2"
        session.headers.update(BEARER)
        assert client.infer(MODEL, [4]).length == 1
        assert session.get(url, timeout=10, **ours.of_requests()).ok
        with renewed(files, other, ours):
            eventually(lambda: lets_in(secured, other))
            assert not lets_in(secured, ours)
            assert client.infer(MODEL, [4]).length == 1
            assert session.get(url, timeout=10, **ours.of_requests()).ok
    eventually(lambda: lets_in(secured, ours))


def test_broken_files_are_logged_and_the_old_go_on(
    secured: RunningServer, files: Files, ours: Authority, other: Authority
) -> None:
    def refused() -> str:
        lines = secured.log.read_text().splitlines()
        return "\n".join(line for line in lines if "changed files refused" in line)

    try:
        files.private_key.write_bytes(other.server[1].read_bytes())
        files.keys.write_text("two words\n")
        # Looked at when the next comes.
        eventually(lambda: lets_in(secured, ours) and "security.keys" in refused())
        assert "it is not the key of security.certificate" in refused()
    finally:
        files.certify(ours)
        files.keys.write_text(f"{KEY}\n")
    eventually(lambda: lets_in(secured, ours))


def test_new_keys_are_taken_and_old_ones_refused_on_open_connections(
    secured: RunningServer, files: Files, ours: Authority
) -> None:
    with sdk.Client(secured.grpc, credentials=ours.credentials(), token=KEY) as client:
        assert client.infer(MODEL, [4]).length == 1
        files.keys.write_text("another\n")
        try:
            eventually(lambda: lets_in(secured, ours, "another"))
            assert not lets_in(secured, ours)
            with pytest.raises(sdk.NotAuthenticated):
                client.infer(MODEL, [4])
        finally:
            files.keys.write_text(f"{KEY}\n")
        eventually(lambda: lets_in(secured, ours))
