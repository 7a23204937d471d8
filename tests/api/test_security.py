"""What is read of ``settings.security``, and what is warned of."""

from pathlib import Path

import pytest
import trustme
from structlog.testing import capture_logs

from seqlens.api.security import Security, read_security
from seqlens.settings import SecuritySettings, ServerSettings


def settings(host: str, **security: Path) -> ServerSettings:
    return ServerSettings(Path(), host=host, security=SecuritySettings(**security))


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text("s3cret")
    return path


def test_without_settings_there_is_nothing() -> None:
    assert read_security(settings("0.0.0.0")) == Security(None, None)


@pytest.mark.parametrize(
    ("host", "warned"),
    [
        ("127.0.0.1", 0),
        ("::1", 0),
        ("localhost", 0),
        ("0.0.0.0", 1),
        ("::", 1),
        ("models.example.com", 1),
    ],
)
def test_keys_in_plain_text_are_warned_of(keys: Path, host: str, warned: int) -> None:
    with capture_logs() as logs:
        read_security(settings(host, keys=keys))
    assert [line["event"] for line in logs] == ["keys travel in plain text"] * warned
    assert "s3cret" not in str(logs)


def test_keys_under_tls_are_not_warned_of(keys: Path, tmp_path: Path) -> None:
    pair = trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem
    path = tmp_path / "both.pem"
    pair.write_to_path(path)
    with capture_logs() as logs:
        read_security(settings("0.0.0.0", keys=keys, certificate=path, private_key=path))
    assert logs == []
