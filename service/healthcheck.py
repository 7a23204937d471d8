"""Exit 0 if the server at ADDRESS says that it serves: the container's health check.

Run as ``python healthcheck.py ADDRESS``. It asks over gRPC, as callers do, so that a server
whose loop hangs counts as ill although its process lives. It needs no key. Where the server's
environment names a certificate it speaks TLS, trusts this certificate alone, whatever name it is
for, and shows it as its own to a server that asks clients for one.
"""

import os
import socket
import ssl
import sys
from pathlib import Path

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

TIMEOUT_SECONDS = 3.0
CERTIFICATE = os.environ.get("SEQLENS_SECURITY_CERTIFICATE")
PRIVATE_KEY = os.environ.get("SEQLENS_SECURITY_PRIVATE_KEY")
CLIENT_CA = os.environ.get("SEQLENS_SECURITY_CLIENT_CA")


def is_serving(address: str) -> bool:
    """Whether the whole server, not one model, is ready for requests."""
    try:
        with connect(address) as channel:
            request = HealthCheckRequest()
            answer = HealthStub(channel).Check(request, timeout=TIMEOUT_SECONDS)
    except (grpc.RpcError, OSError) as error:
        print(f"{address}: {error}", file=sys.stderr)
        return False
    return bool(answer.status == HealthCheckResponse.SERVING)


def connect(address: str) -> grpc.Channel:
    """A channel as the environment has it. Raises ``OSError`` for a server that is not ours."""
    if not CERTIFICATE:
        return grpc.insecure_channel(address)
    chain = Path(CERTIFICATE).read_bytes()
    key = Path(PRIVATE_KEY).read_bytes() if CLIENT_CA and PRIVATE_KEY else None
    credentials = grpc.ssl_channel_credentials(chain, key, chain if key else None)
    name = name_in_certificate(address, CERTIFICATE)
    return grpc.secure_channel(address, credentials, [("grpc.ssl_target_name_override", name)])


def name_in_certificate(address: str, certificate: str) -> str:
    """A name that the server's certificate is for, as that is seldom the local address."""
    context = ssl.create_default_context(cafile=certificate)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.check_hostname = False
    context.set_alpn_protocols(["h2"])
    if CLIENT_CA:
        context.load_cert_chain(certificate, PRIVATE_KEY)
    host, _, port = address.rpartition(":")
    with (
        socket.create_connection((host.strip("[]"), int(port)), TIMEOUT_SECONDS) as connection,
        context.wrap_socket(connection) as secured,
    ):
        names = (secured.getpeercert() or {}).get("subjectAltName", ())
    return str(names[0][1]).replace("*", "health") if names else host


if __name__ == "__main__":
    sys.exit(0 if is_serving(sys.argv[1]) else 1)
