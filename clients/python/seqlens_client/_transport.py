"""How a channel is set up: sizes, keepalive, retries, credentials."""

import json
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from seqlens_client._operations import Operation
from seqlens_client._security import check_token
from seqlens_wire.pb.open_inference_pb2_grpc import GRPCInferenceServiceStub
from seqlens_wire.pb.sequences_pb2_grpc import SequenceServiceStub

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
MAX_RETRIES = 4  # gRPC makes at most five attempts
# Of several servers one may refuse all its calls while it shuts down: each of them fails once and
# succeeds elsewhere, which costs a token and gives it back. Where nothing answers it ends soon.
RETRY_BUDGET = {"maxTokens": 100, "tokenRatio": 1.0}
KEEPALIVE_MILLISECONDS = 30_000
KEEPALIVE_TIMEOUT_MILLISECONDS = 10_000


@dataclass(frozen=True, slots=True)
class ChannelSettings:
    """What both clients need to open a channel."""

    target: str
    retries: int
    max_message_bytes: int
    credentials: grpc.ChannelCredentials | None
    token: str | None = field(repr=False)

    def __post_init__(self) -> None:
        check_target(self.target)
        if not 0 <= self.retries <= MAX_RETRIES:
            raise ValueError(f"retries: got {self.retries}, expected from 0 to {MAX_RETRIES}")
        if self.token is not None:
            check_token(self.token)

    def open(self) -> grpc.Channel:
        """A channel for threads."""
        if self.credentials is None:
            return grpc.insecure_channel(self.target, self.options())
        return grpc.secure_channel(self.target, self.credentials, self.options())

    def open_aio(self) -> grpc.aio.Channel:
        """A channel for the running event loop."""
        if self.credentials is None:
            return grpc.aio.insecure_channel(self.target, self.options())
        return grpc.aio.secure_channel(self.target, self.credentials, self.options())

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with every call: the token."""
        if self.token is None:
            return ()
        # Not as gRPC's call credentials: freeing them takes the interpreter's lock on a thread
        # that the last channel may wait for, with the lock held, when the next one is made.
        return (("authorization", f"Bearer {self.token}"),)

    def options(self) -> list[tuple[str, Any]]:
        """Channel arguments."""
        return [
            ("grpc.max_send_message_length", self.max_message_bytes),
            ("grpc.max_receive_message_length", self.max_message_bytes),
            # A connection that died in silence fails its calls instead of leaving them waiting.
            ("grpc.keepalive_time_ms", KEEPALIVE_MILLISECONDS),
            ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MILLISECONDS),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.enable_retries", int(self.retries > 0)),
            ("grpc.service_config", json.dumps(self._service_config())),
        ]

    def _service_config(self) -> dict[str, Any]:
        """Calls go to all servers of the target in turn; gRPC itself retries some of them.

        Retries are of UNAVAILABLE only, and fewer the more of them fail.
        """
        balancing: dict[str, Any] = {"loadBalancingConfig": [{"round_robin": {}}]}
        if not self.retries:
            return balancing
        policy = {
            "maxAttempts": self.retries + 1,
            "initialBackoff": "0.05s",
            "maxBackoff": "1s",
            "backoffMultiplier": 2,
            "retryableStatusCodes": ["UNAVAILABLE"],
        }
        return balancing | {
            "methodConfig": [{"name": [{}], "retryPolicy": policy}],
            "retryThrottling": RETRY_BUDGET,
        }


def check_target(target: object) -> None:
    """Raise ``ValueError`` for what gRPC would log or report in words of its own."""
    if not isinstance(target, str) or not target or target.startswith(("http:", "https:")):
        raise ValueError(
            f"target: got {target!r}, expected HOST:PORT of the server's gRPC, as 127.0.0.1:8001"
        )


class Stubs:
    """The methods of both services over one channel."""

    # Any: what a method returns depends on the kind of channel.
    inference: Any
    sequences: Any

    def __init__(self, channel: grpc.Channel | grpc.aio.Channel) -> None:
        self.inference = GRPCInferenceServiceStub(channel)
        self.sequences = SequenceServiceStub(channel)

    def method(self, operation: Operation[Any]) -> Any:
        """The callable that makes this call."""
        return getattr(getattr(self, operation.service), operation.method)
