"""What is said of certificates that cannot be used."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from seqlens.api.certificates import read_certificates
from seqlens.settings import InvalidSetting

CA = trustme.CA()
SERVER = CA.issue_cert("localhost")
OTHER = CA.issue_cert("localhost")


def encrypted(key: bytes) -> bytes:
    form = PrivateFormat.PKCS8
    protection = BestAvailableEncryption(b"passphrase")
    return load_pem_private_key(key, None).private_bytes(Encoding.PEM, form, protection)


@dataclass
class Files:
    chain: Path
    key: Path
    ca: Path


@pytest.fixture
def files(tmp_path: Path) -> Files:
    found = Files(tmp_path / "chain.pem", tmp_path / "key.pem", tmp_path / "ca.pem")
    SERVER.cert_chain_pems[0].write_to_path(found.chain)
    SERVER.private_key_pem.write_to_path(found.key)
    CA.cert_pem.write_to_path(found.ca)
    return found


def test_what_is_read_is_what_the_files_hold(files: Files) -> None:
    read = read_certificates(files.chain, files.key, files.ca)
    assert read.chain == files.chain.read_bytes()
    assert read.private_key == files.key.read_bytes()
    assert read.client_ca == files.ca.read_bytes()
    assert read_certificates(files.chain, files.key, None).client_ca is None


NO_PEM = b"-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n"


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("chain", b"", "security.certificate: {}: expected certificates in PEM"),
        ("chain", NO_PEM, "security.certificate: {}: expected certificates in PEM"),
        ("chain", None, "security.certificate: {}: No such file or directory"),
        ("key", b"", "security.private_key: {}: expected a private key in PEM"),
        ("key", None, "security.private_key: {}: No such file or directory"),
        ("key", SERVER.cert_chain_pems[0].bytes(), "security.private_key: {}: expected a private"),
        (
            "key",
            OTHER.private_key_pem.bytes(),
            "security.private_key: {}: it is not the key of security.certificate",
        ),
        (
            "key",
            encrypted(SERVER.private_key_pem.bytes()),
            "security.private_key: {}: expected a key without a passphrase",
        ),
        ("ca", b"nothing", "security.client_ca: {}: expected certificates in PEM"),
        ("ca", None, "security.client_ca: {}: No such file or directory"),
    ],
)
def test_the_message_names_setting_file_and_reason(
    files: Files, name: str, data: bytes | None, said: str
) -> None:
    path: Path = getattr(files, name)
    if data is None:
        path.unlink()
    else:
        path.write_bytes(data)
    with pytest.raises(InvalidSetting) as caught:
        read_certificates(files.chain, files.key, files.ca)
    assert str(caught.value).startswith(said.format(path))
    assert "\n" not in str(caught.value)
