"""One face for the four clients of tritonclient, so that each is asked the same."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import import_module
from inspect import isawaitable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tests.conftest import RunningServer

KINDS = ("http", "http.aio", "grpc", "grpc.aio")


@dataclass(frozen=True, slots=True)
class TritonClient:
    """One of the four, connected. Blocking calls block the loop, in which nothing else runs."""

    kind: str
    module: Any
    client: Any

    @property
    def over_http(self) -> bool:
        return self.kind.startswith("http")

    async def call(self, name: str, *arguments: Any, **options: Any) -> Any:
        """What the client's method gives."""
        given = getattr(self.client, name)(*arguments, **options)
        return await given if isawaitable(given) else given

    async def told(self, name: str, *arguments: Any, **options: Any) -> Any:
        """The same for methods that give JSON over HTTP and can do so over gRPC."""
        if not self.over_http:
            options["as_json"] = True
        return await self.call(name, *arguments, **options)

    def tensor(self, name: str, array: NDArray[Any], **options: Any) -> Any:
        """An input with its data."""
        datatype = {"i": "INT", "f": "FP"}[array.dtype.kind] + str(array.dtype.itemsize * 8)
        tensor = self.module.InferInput(name, list(array.shape), datatype)
        tensor.set_data_from_numpy(array, **options)
        return tensor

    def tensors(self, **arrays: NDArray[Any]) -> list[Any]:
        """Inputs with their data."""
        return [self.tensor(name, array) for name, array in arrays.items()]

    def status(self, code: str, http: int) -> str:
        """How the client spells the status of an error."""
        return str(http) if self.over_http else f"StatusCode.{code}"


@asynccontextmanager
async def connected(kind: str, server: RunningServer) -> AsyncIterator[TritonClient]:
    """A client of that kind until the end of the block."""
    module = import_module(f"tritonclient.{kind}")
    address = server.rest if kind.startswith("http") else server.grpc
    client = module.InferenceServerClient(address)
    try:
        yield TritonClient(kind, module, client)
    finally:
        closed = client.close()
        if isawaitable(closed):
            await closed


def output_of(model: str) -> str:
    """Name of a model's output: TorchScript keeps none."""
    return "logits" if model.endswith("onnx") else "output_0"


def classes(answer: NDArray[Any]) -> list[tuple[float, int, str]]:
    """What the elements of a classification say: value, index and label."""
    parts = (element.decode().split(":") for element in np.ravel(answer))
    return [(float(value), int(index), label) for value, index, label in parts]
