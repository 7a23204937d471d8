"""TLS, certificates of clients, and tokens, against servers that insist on them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from tests.clients.conftest import FakeServer, running_fake

import seqlens_client as sdk
from seqlens_client import tls

CA = trustme.CA()
SERVER = CA.issue_cert("127.0.0.1")
CLIENT = CA.issue_cert("client@example.com")
CA_PEM = CA.cert_pem.bytes()


def server_credentials(*, asks_for_certificates: bool) -> grpc.ServerCredentials:
    pair = (SERVER.private_key_pem.bytes(), SERVER.cert_chain_pems[0].bytes())
    return grpc.ssl_server_credentials([pair], CA_PEM, asks_for_certificates)


@pytest.fixture(scope="module")
def tls_server() -> Iterator[FakeServer]:
    with running_fake(server_credentials(asks_for_certificates=False)) as server:
        yield server


@pytest.fixture(scope="module")
def strict_server() -> Iterator[FakeServer]:
    with running_fake(server_credentials(asks_for_certificates=True)) as server:
        yield server


async def lengths(client: Any) -> list[int]:
    """Of one call, and of a stream."""
    results = [await client.infer("echo", [1, 2]), *await client.stream("echo", [[1]])]
    await client.close()
    return [result.length for result in results]


async def test_a_server_with_a_certificate_is_trusted_by_its_authority(
    face: Any, tls_server: FakeServer, tmp_path: Path
) -> None:
    path = tmp_path / "ca.pem"
    path.write_bytes(CA_PEM)
    for ca in (CA_PEM, path, str(path)):
        assert await lengths(face(tls_server.address, credentials=tls(ca))) == [2, 1]


async def test_a_server_of_another_authority_is_not_trusted(
    face: Any, tls_server: FakeServer
) -> None:
    other = trustme.CA().cert_pem.bytes()
    client = face(tls_server.address, credentials=tls(other), retries=0)
    with pytest.raises(sdk.Unavailable):
        await client.infer("echo", [1])
    await client.close()


async def test_a_client_shows_its_own_certificate(face: Any, strict_server: FakeServer) -> None:
    ours = tls(CA_PEM, CLIENT.cert_chain_pems[0].bytes(), CLIENT.private_key_pem.bytes())
    assert await lengths(face(strict_server.address, credentials=ours)) == [2, 1]
    nobody = face(strict_server.address, credentials=tls(CA_PEM), retries=0)
    with pytest.raises(sdk.Unavailable):
        await nobody.infer("echo", [1])
    await nobody.close()


async def test_a_token_goes_with_every_call_with_tls_and_without(
    face: Any, tls_server: FakeServer, fake: FakeServer
) -> None:
    for server, credentials in ((tls_server, tls(CA_PEM)), (fake, None)):
        server.models.authorizations.clear()
        client = face(server.address, credentials=credentials, token="s3cret", hedge_after=1.0)
        await client.describe("echo")
        assert await lengths(client) == [2, 1]
        assert set(server.models.authorizations) == {"Bearer s3cret"}


async def test_a_token_goes_with_files(face: Any, fake: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text("[1]\n")
    client = face(fake.address, token="s3cret")
    assert (await client.process_file("echo", tmp_path / "x.jsonl")).rows == 1
    await client.close()
    assert set(fake.models.authorizations) == {"Bearer s3cret"}


@pytest.mark.parametrize("token", ["", "two words", "line\n", "schlüssel"])
def test_what_cannot_be_a_token_is_refused_and_not_repeated(face: Any, token: str) -> None:
    with pytest.raises(ValueError, match="token: expected printable ASCII") as caught:
        face("127.0.0.1:1", token=token)
    assert not token or token not in str(caught.value)


def test_a_token_is_not_shown() -> None:
    with sdk.Client("127.0.0.1:1", token="s3cret") as client:
        assert "s3cret" not in repr(client._settings)


def test_a_certificate_needs_its_key() -> None:
    with pytest.raises(ValueError, match="both or none"):
        tls(certificate=b"...")
