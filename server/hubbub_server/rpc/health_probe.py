"""Asks a node whether it serves: `python -m hubbub_server.rpc.health_probe HOST:PORT` exits with 0 or 1.

A program of its own, because it is run every few seconds and must cost little: it reads no settings and opens nothing.
"""

import sys
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

_TIMEOUT_S: Final = 3.0


def is_serving(address: str) -> bool:
    """Tells whether the node at `address` says SERVING, within three seconds; blocks."""
    with grpc.insecure_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=_TIMEOUT_S)
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


if __name__ == "__main__":
    sys.exit(0 if is_serving(sys.argv[1]) else 1)
