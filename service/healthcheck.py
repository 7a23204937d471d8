"""Exit 0 if the server at ADDRESS says that it serves: the container's health check.

Run as ``python healthcheck.py ADDRESS``. It asks over gRPC, as callers do, so that a server
whose loop hangs counts as ill although its process lives.
"""

import sys

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

TIMEOUT_SECONDS = 3.0


def is_serving(address: str) -> bool:
    """Whether the whole server, not one model, is ready for requests."""
    with grpc.insecure_channel(address) as channel:
        try:
            answer = HealthStub(channel).Check(HealthCheckRequest(), timeout=TIMEOUT_SECONDS)
        except grpc.RpcError as error:
            print(f"{address}: {error}", file=sys.stderr)
            return False
    return bool(answer.status == HealthCheckResponse.SERVING)


if __name__ == "__main__":
    sys.exit(0 if is_serving(sys.argv[1]) else 1)
