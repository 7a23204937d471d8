"""Every call of the Open Inference Protocol but inference itself, by the name of its RPC.

The messages of the protocol are its own plain types: gRPC sends them as they are, REST as JSON
with the same names.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from google.protobuf.message import Message

from seqlens.api.control.logs import LogCalls
from seqlens.api.control.memory import MemoryCalls
from seqlens.api.control.models import ModelCalls
from seqlens.api.control.repository import RepositoryCalls
from seqlens.api.control.server import ServerCalls
from seqlens.api.control.tracing import TraceCalls
from seqlens.api.core import Core
from seqlens.errors import NotOffered
from seqlens_wire.services import OPEN_INFERENCE, method_names

ControlCall = Callable[[Any], Awaitable[Message]]

INFERENCE = ("ModelInfer", "ModelStreamInfer")
KINDS = (ServerCalls, ModelCalls, RepositoryCalls, MemoryCalls, TraceCalls, LogCalls)


def control_calls(core: Core) -> dict[str, ControlCall]:
    """All control calls; those of extensions that are not offered raise ``NotOffered``."""
    offered = [kind(core) for kind in KINDS]
    return {
        name: next((getattr(o, name) for o in offered if hasattr(o, name)), _not_offered(name))
        for name in method_names(OPEN_INFERENCE)
        if name not in INFERENCE
    }


def _not_offered(rpc: str) -> ControlCall:
    async def refuse(request: Message) -> Message:
        raise NotOffered(f"{rpc}: this server does not offer that extension")

    return refuse
