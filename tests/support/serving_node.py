"""A node that serves, as a process, and users who sign up at it."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType

import grpc.aio
from hubbub.auth.v1 import auth_service_pb2

from hubbub_server.supervisor.data_folder import DataFolder
from tests.support.node import RpcClient
from tests.support.program import Program, running
from tests.support.real_worker import worker_settings
from tests.support.services import NatsCluster

ANNOUNCE_S = 1.5


@asynccontextmanager
async def serving(
    cluster: NatsCluster, folder: DataFolder, *, more: Mapping[str, str] = MappingProxyType({})
) -> AsyncIterator[tuple[Program, grpc.aio.Channel]]:
    """Runs a node process on the worker's store, with more settings if there are any."""
    folder.make_secrets()
    settings = worker_settings(cluster, folder.store) | {
        "HUBBUB_AUTH__SECRETS": str(folder.secrets),
        "HUBBUB_NODE__PORT": "0",
        "HUBBUB_EDGE__PORT": "0",
        "HUBBUB_NODE__METRICS_PORT": "0",
        "HUBBUB_NODE__ANNOUNCE_S": str(ANNOUNCE_S),
        **more,
    }
    async with running("node", settings, until_logged="node serves") as node:
        (served,) = node.log_of("node serves")
        async with grpc.aio.insecure_channel(f"127.0.0.1:{served['port']}") as channel:
            yield node, channel


async def sign_up(channel: grpc.aio.Channel, login_name: str) -> tuple[RpcClient, str]:
    """Registers somebody; returns the stubs and the user id."""
    response = await RpcClient(channel, None).accounts.Register(
        auth_service_pb2.RegisterRequest(
            login_name=login_name, password="correct horse battery", display_name=login_name
        )
    )
    return RpcClient(channel, response.credentials.access_token), response.credentials.user_id
