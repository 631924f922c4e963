"""A whole node in this process: the real application and a real gRPC server, on fakes of log, store and accounts.

Several nodes of one `NodeCluster` share these fakes. Time stands still until a test moves `cluster.clock`; then
`Node.streams.tick()` lets streams notice at once.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import count

import grpc.aio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hubbub.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from hubbub.chat.v1.chat_service_pb2_grpc import ChatServiceStub
from hubbub.chat.v1.marker_service_pb2_grpc import MarkerServiceStub
from hubbub.conversation.v1.conversation_service_pb2_grpc import ConversationServiceStub
from hubbub.history.v1.history_service_pb2_grpc import HistoryServiceStub
from hubbub.presence.v1.presence_service_pb2_grpc import PresenceServiceStub
from hubbub.user.v1.settings_service_pb2_grpc import SettingsServiceStub
from hubbub.user.v1.user_service_pb2_grpc import UserServiceStub

from hubbub_server.adapters.crypto.jose_token_signer import JoseTokenSigner
from hubbub_server.app.authenticate import Authenticate, Credentials
from hubbub_server.app.conversation_signals import ConversationSignals
from hubbub_server.app.conversations import Conversations
from hubbub_server.app.presence import Presence
from hubbub_server.app.project import project
from hubbub_server.app.registered_node import RegisteredNode
from hubbub_server.app.streams import MAX_OPENING, Streams
from hubbub_server.app.topic_hub import TopicHub
from hubbub_server.app.topic_reader import TopicReader
from hubbub_server.app.use_cases import NodeBounds, NodeParts, UseCases, open_use_cases
from hubbub_server.domain.ids import DeviceSessionId, UserId
from hubbub_server.edge.limits import STRANGERS, EdgeLimits
from hubbub_server.edge.server import StreamEdge
from hubbub_server.ports.credentials import AccessClaims
from hubbub_server.rpc.server import RpcServer, ServerLimits
from hubbub_server.wire.presence import encode_update
from hubbub_server.wire.record_codec import ProtoRecordCodec
from hubbub_server.wire.signal_codec import ProtoSignalCodec
from tests.support.fakes.accounts import FakeAccountStore, FakeDeviceSessionStore
from tests.support.fakes.clock import FakeClock, FakeIds
from tests.support.fakes.dead_letters import FakeDeadLetters
from tests.support.fakes.node_registry import FakeNodeRegistry, FakeRegistryServer
from tests.support.fakes.presence_registry import FakePresenceRegistry, FakePresenceServer
from tests.support.fakes.signal_bus import FakeSignalServer
from tests.support.fakes.store import FakeStore
from tests.support.fakes.topic_log import FakeLogServer, FakeTopicLog
from tests.support.loaders import fake_ports

PASSWORD = "correct horse"
ID_KEY = b"k" * 32
WITHIN_S = 10.0
GRACE_S = 0.3
"""So long is the grace of presence in these clusters."""
CODEC = ProtoRecordCodec()


class PlainHasher:
    """A PasswordHasher that takes no time."""

    async def hash(self, password: str) -> str:
        """Returns the password itself."""
        return f"plain {password}"

    async def verify(self, password: str, password_hash: str | None) -> bool:
        """Compares."""
        return password_hash == f"plain {password}"


class RpcClient:
    """The stubs of one user. `auth` is the metadata of every call; the streaming methods may have another channel."""

    def __init__(
        self, channel: grpc.aio.Channel, token: str | None, stream_channel: grpc.aio.Channel | None = None
    ) -> None:
        self.channel = stream_channel or channel
        self.auth: tuple[tuple[str, str], ...] = () if token is None else (("authorization", f"Bearer {token}"),)
        self.accounts = AuthServiceStub(channel)
        self.users = UserServiceStub(channel)
        self.conversations = ConversationServiceStub(channel)
        self.chat = ChatServiceStub(channel)
        self.history = HistoryServiceStub(channel)
        self.markers = MarkerServiceStub(channel)
        self.settings = SettingsServiceStub(channel)
        self.presence = PresenceServiceStub(channel)
        if stream_channel is not None:
            self.chat.Connect = ChatServiceStub(stream_channel).Connect
            self.chat.Subscribe = ChatServiceStub(stream_channel).Subscribe
            self.history.Sync = HistoryServiceStub(stream_channel).Sync
            self.history.SyncOnce = HistoryServiceStub(stream_channel).SyncOnce
            self.presence.Watch = PresenceServiceStub(stream_channel).Watch
            self.presence.Subscribe = PresenceServiceStub(stream_channel).Subscribe


@dataclass
class Node:
    """A running node. `address` serves all methods, `stream_address` the streaming ones: the same without the edge."""

    address: str
    stream_address: str
    channel: grpc.aio.Channel
    stream_channel: grpc.aio.Channel
    log: FakeTopicLog
    hub: TopicHub
    streams: Streams
    presence: Presence
    conversations: Conversations
    server: RpcServer
    edge: StreamEdge | None

    def client(self, token: str | None) -> RpcClient:
        """Returns the stubs of the holder of a token; None is anonymous."""
        return RpcClient(self.channel, token, self.stream_channel)

    async def stop(self, grace_s: float) -> None:
        """Stops what serves."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.server.stop(grace_s))
            if self.edge is not None:
                group.create_task(self.edge.stop(grace_s))


@dataclass
class NodeCluster:
    """What nodes share. `breaches` lists statuses that broke the error contract.

    `transport` is what serves the streaming methods: "aio" (grpc.aio) or "edge".
    """

    transport: str = "aio"
    log_server: FakeLogServer = field(default_factory=FakeLogServer)
    signal_server: FakeSignalServer = field(default_factory=FakeSignalServer)
    store: FakeStore = field(default_factory=FakeStore)
    accounts: FakeAccountStore = field(default_factory=FakeAccountStore)
    device_sessions: FakeDeviceSessionStore = field(default_factory=FakeDeviceSessionStore)
    clock: FakeClock = field(default_factory=FakeClock)
    ids: FakeIds = field(default_factory=FakeIds)
    breaches: list[str] = field(default_factory=list)
    edge_limits: EdgeLimits = STRANGERS
    lives: FakeRegistryServer = field(default_factory=lambda: FakeRegistryServer(time.monotonic))
    _life_ids: FakeIds = field(default_factory=FakeIds)
    _node_numbers: "count[int]" = field(default_factory=lambda: count(1))

    def __post_init__(self) -> None:
        self.presence = FakePresenceServer(self.lives, grace_s=GRACE_S, born_ms=-60_000)
        self.signer = JoseTokenSigner(
            signing_key=Ed25519PrivateKey.generate(),
            refresh_key=os.urandom(32),
            issuer="test",
            audience="test",
            clock=self.clock,
        )

    def _authenticate(self) -> Authenticate:
        return Authenticate(
            accounts=self.accounts,
            sessions=self.device_sessions,
            hasher=PlainHasher(),
            signer=self.signer,
            clock=self.clock,
            ids=self.ids,
        )

    async def sign_up(self, login_name: str) -> Credentials:
        """Registers an account."""
        async with self._authenticate() as authenticate:
            return await authenticate.register(login_name, PASSWORD, login_name.title())

    def token(self, user_id: UserId, *, expires_in_s: float = 600.0) -> str:
        """Signs an access token; a negative `expires_in_s` makes one that has ended."""
        claims = AccessClaims(
            user_id=user_id,
            device_session_id=DeviceSessionId("d1"),
            generation=1,
            expire_time_ms=self.clock.now_ms() + round(expires_in_s * 1000),
        )
        return self.signer.sign(claims)

    async def project(self) -> None:
        """Brings the store to the head of the log, as the worker does."""
        for shard, records in enumerate(self.log_server.records):
            if records:
                await self.store.apply(project(CODEC, shard, records))

    @asynccontextmanager
    async def app(self, *, max_opening: int = MAX_OPENING) -> AsyncIterator[tuple[FakeTopicLog, TopicHub, UseCases]]:
        """Runs what one more node does, without transports."""
        log, bus = self.log_server.connect(), self.signal_server.connect()
        signals = ConversationSignals(bus=bus, codec=ProtoSignalCodec(), clock=self.clock)
        hub = TopicHub(
            fake_ports(self.log_server, log, self.store, clock=self.clock, ids=self.ids),
            recheck_delay_s=0.0,
            interest=signals,
        )
        presence = Presence(
            hub=hub,
            registry=FakePresenceRegistry(self.presence),
            bus=bus,
            clock=self.clock,
            encode=encode_update,
        )
        registered = RegisteredNode(
            FakeNodeRegistry(self.lives),
            node_id="node",
            address="127.0.0.1:1",
            clock=self.clock,
            ids=self._life_ids,
            on_gone=presence.tracker.settle,
        )
        async with self._authenticate() as authenticate, hub, presence, registered, AsyncExitStack() as stack:
            presence.tracker.node = registered
            parts = NodeParts(
                hub=hub,
                reader=TopicReader(log=log, messages=self.store, events=self.store, markers=self.store, codec=CODEC),
                directory=self.store,
                letters=FakeDeadLetters(),
                accounts=self.accounts,
                authenticate=authenticate,
                signals=signals,
                presence=presence,
                clock=self.clock,
                ids=self.ids,
                id_key=ID_KEY,
            )
            bounds = NodeBounds(max_opening_streams=max_opening, marker_window_s=0.0)
            yield log, hub, await open_use_cases(stack, parts, bounds)

    @asynccontextmanager
    async def node(
        self,
        *,
        limits: ServerLimits | None = None,
        channel_options: Sequence[tuple[str, int]] = (),
        max_opening: int = MAX_OPENING,
    ) -> AsyncIterator[Node]:
        """Runs one more node on a free port."""
        async with AsyncExitStack() as stack:
            log, hub, use_cases = await stack.enter_async_context(self.app(max_opening=max_opening))
            server = await stack.enter_async_context(
                RpcServer(
                    use_cases,
                    clock=self.clock,
                    ids=self.ids,
                    node_id=f"node-{next(self._node_numbers)}",
                    is_ready=hub.is_live,
                    limits=limits,
                    report_breach=self.breaches.append,
                )
            )
            (port,) = await server.start("127.0.0.1:0")
            address = stream_address = f"127.0.0.1:{port}"
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(address, options=channel_options))
            stream_channel, edge = channel, None
            if self.transport == "edge":
                edge = StreamEdge(server.streaming_calls(), limits=self.edge_limits, is_ready=hub.is_live)
                await stack.enter_async_context(edge)
                stream_address = f"127.0.0.1:{await edge.start('127.0.0.1', 0)}"
                stream_channel = await stack.enter_async_context(
                    grpc.aio.insecure_channel(stream_address, options=channel_options)
                )
            yield Node(
                address=address,
                stream_address=stream_address,
                channel=channel,
                stream_channel=stream_channel,
                log=log,
                hub=hub,
                streams=use_cases.streams,
                presence=use_cases.presence,
                conversations=use_cases.conversations,
                server=server,
                edge=edge,
            )


async def until(condition: Callable[[], bool]) -> None:
    """Waits until a condition holds."""
    async with asyncio.timeout(WITHIN_S):
        while not condition():  # noqa: ASYNC110  # any condition, not one that somebody sets
            await asyncio.sleep(0.005)
