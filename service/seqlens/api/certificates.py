"""The server's certificate, its private key, and who signs the certificates of clients."""

import ssl
from dataclasses import dataclass
from pathlib import Path

from seqlens.settings import InvalidSetting

CERTIFICATE = "security.certificate"
PRIVATE_KEY = "security.private_key"
CLIENT_CA = "security.client_ca"


@dataclass(frozen=True, slots=True)
class Certificates:
    """One state of the files, found to be usable and to belong together."""

    chain: bytes  # PEM, as are the next two
    private_key: bytes
    client_ca: bytes | None  # None: clients need no certificate
    context: ssl.SSLContext  # the same, for HTTP/1.1


def read_certificates(certificate: Path, private_key: Path, client_ca: Path | None) -> Certificates:
    """Read PEM files. Raises ``InvalidSetting``, which names the file at fault and why."""
    chain, key = _read(CERTIFICATE, certificate), _read(PRIVATE_KEY, private_key)
    ca = None if client_ca is None else _read(CLIENT_CA, client_ca)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    _check_certificates(CERTIFICATE, certificate)
    _load_chain(context, certificate, private_key)
    if client_ca is not None:
        _check_certificates(CLIENT_CA, client_ca)
        _ask_clients(context, client_ca)
    return Certificates(chain, key, ca, context)


def _read(setting: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidSetting(f"{setting}: {path}: {error.strerror or error}") from error


def _check_certificates(setting: str, path: Path) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
    except ssl.SSLError as error:
        raise InvalidSetting(f"{setting}: {path}: expected certificates in PEM") from error


def _load_chain(context: ssl.SSLContext, certificate: Path, private_key: Path) -> None:
    def refuse_passphrase() -> str:
        # Without this OpenSSL would ask for it on the terminal.
        expected = "expected a key without a passphrase"
        raise InvalidSetting(f"{PRIVATE_KEY}: {private_key}: {expected}")

    try:
        context.load_cert_chain(certificate, private_key, refuse_passphrase)
    except ssl.SSLError as error:
        known = f" ({error.reason})" if error.reason else ""
        reason = _READABLE.get(error.reason, f"expected a private key in PEM{known}")
        raise InvalidSetting(f"{PRIVATE_KEY}: {private_key}: {reason}") from error


_READABLE = {
    "KEY_VALUES_MISMATCH": f"it is not the key of {CERTIFICATE}",
    "KEY_TYPE_MISMATCH": f"it is not the key of {CERTIFICATE}",
    "EE_KEY_TOO_SMALL": f"the key of {CERTIFICATE} is too short to be safe",
    "CA_MD_TOO_WEAK": f"the signature of {CERTIFICATE} is too weak to be safe",
}


def _ask_clients(context: ssl.SSLContext, client_ca: Path) -> None:
    context.verify_mode = ssl.CERT_REQUIRED
    # An authority need not be a root, as in gRPC.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cafile=client_ca)
    # Whoever comes back with a ticket would not be asked for a certificate again.
    context.num_tickets = 0
