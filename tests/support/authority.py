"""Certificates for tests, as files, and what a server is given of them."""

import ssl
from pathlib import Path
from types import MappingProxyType
from typing import Any

import grpc
import requests
import trustme
from tests.conftest import RunningServer

from seqlens_client import tls

MODEL = "lstm-onnx"
KEY = "s3cret-of-the-tests"
NAME = "models.example.com"  # and none of this machine's
BEARER = MappingProxyType({"authorization": f"Bearer {KEY}"})


class Authority:
    """Signs the certificates of a server and of its clients, as files of a folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        ca = trustme.CA()
        self.ca = folder / "ca.pem"
        ca.cert_pem.write_to_path(self.ca)
        self.server = self._issue(ca, folder / "server", "127.0.0.1", NAME)
        self.client = self._issue(ca, folder / "client", "client@example.com")

    @staticmethod
    def _issue(ca: trustme.CA, path: Path, *names: str) -> tuple[Path, Path]:
        issued = ca.issue_cert(*names)
        certificate, key = path.with_suffix(".pem"), path.with_suffix(".key")
        issued.cert_chain_pems[0].write_to_path(certificate)
        issued.private_key_pem.write_to_path(key)
        return certificate, key

    def credentials(self) -> grpc.ChannelCredentials:
        return tls(self.ca, *self.client)

    def context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.ca)
        context.load_cert_chain(*self.client)
        return context

    def of_requests(self) -> dict[str, Any]:
        return {"verify": str(self.ca), "cert": tuple(map(str, self.client))}


class Files:
    """The files that the server was given, which tests replace and put back."""

    def __init__(self, folder: Path) -> None:
        self.certificate, self.private_key = folder / "tls.pem", folder / "tls.key"
        self.client_ca, self.keys = folder / "clients.pem", folder / "keys"

    def certify(self, authority: Authority) -> None:
        certificate, key = authority.server
        self.private_key.write_bytes(key.read_bytes())
        self.certificate.write_bytes(certificate.read_bytes())
        self.client_ca.write_bytes(authority.ca.read_bytes())


def get(server: RunningServer, path: str, authority: Authority, **headers: str) -> Any:
    url = f"https://{server.rest}{path}"
    return requests.get(url, headers=headers, timeout=10, **authority.of_requests())
