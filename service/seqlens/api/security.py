"""What ``settings.security`` asks for, read and ready for both edges."""

from dataclasses import dataclass
from ipaddress import ip_address

import structlog

from seqlens.api.certificates import Certificates, read_certificates
from seqlens.api.keys import Keys
from seqlens.api.watched import Watched
from seqlens.settings import SecuritySettings, ServerSettings

_log = structlog.get_logger("seqlens.security")


@dataclass(frozen=True, slots=True)
class Security:
    """``None`` stands for what is not asked for."""

    certificates: Watched[Certificates] | None = None
    keys: Keys | None = None


def read_security(settings: ServerSettings) -> Security:
    """Read the files that the settings name. Raises ``InvalidSetting`` for what is unusable."""
    security = settings.security
    keys = None if security.keys is None else Keys(security.keys)
    certificates = _watched_certificates(security)
    if keys is not None and certificates is None and not _is_loopback(settings.host):
        _log.warning(
            "keys travel in plain text",
            host=settings.host,
            expected="security.certificate, or a proxy in front that speaks TLS",
        )
    return Security(certificates, keys)


def _watched_certificates(security: SecuritySettings) -> Watched[Certificates] | None:
    certificate, private_key = security.certificate, security.private_key
    if certificate is None or private_key is None:
        return None
    client_ca = security.client_ca
    files = [certificate, private_key, *([client_ca] if client_ca is not None else [])]
    return Watched(files, lambda: read_certificates(certificate, private_key, client_ca))


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
