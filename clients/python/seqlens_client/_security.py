"""Who the server is, and who the client is."""

from pathlib import Path

import grpc

Pem = str | Path | bytes


def tls(
    ca: Pem | None = None,
    certificate: Pem | None = None,
    private_key: Pem | None = None,
) -> grpc.ChannelCredentials:
    """Credentials of a client that speaks TLS.

    ``ca`` holds the certificates that the server's may be signed with (None: those that gRPC
    brings along); ``certificate`` and ``private_key``, both or none, are the client's own, for
    servers that ask for one. Each is a path, or the PEM itself as bytes.

    Raises ``ValueError`` for one of the pair alone, ``OSError`` for a file that cannot be read.
    """
    if (certificate is None) != (private_key is None):
        raise ValueError("certificate and private_key: got one of them, expected both or none")
    return grpc.ssl_channel_credentials(
        root_certificates=_pem(ca),
        private_key=_pem(private_key),
        certificate_chain=_pem(certificate),
    )


def _pem(source: Pem | None) -> bytes | None:
    if source is None or isinstance(source, bytes):
        return source
    return Path(source).read_bytes()


def check_token(token: str) -> None:
    """Raise ``ValueError`` for what cannot travel in a header; the message does not repeat it."""
    if not token or not all("!" <= character <= "~" for character in token):
        raise ValueError("token: expected printable ASCII characters without spaces")
