"""A client of PresenceService for tests: one stream, each wait bounded."""

import asyncio
from types import TracebackType
from typing import Any, Self

from hubbub.presence.v1 import presence_service_pb2 as pb

from tests.support.node import RpcClient

SILENT_FOR_S = 25.0
"""A sign of life comes every 20 s."""
STATES = {number: name.removeprefix("PRESENCE_STATE_").lower() for name, number in pb.PresenceState.items()}


class WatchClient:
    """Watch, or Subscribe when `takes_frames` is False. Use as `async with`."""

    def __init__(
        self,
        client: RpcClient,
        *user_ids: str,
        activity: pb.Activity.ValueType = pb.ACTIVITY_ACTIVE,
        takes_frames: bool = True,
    ) -> None:
        self.updates: list[pb.PresenceUpdate] = []
        self.newest: dict[str, pb.Presence] = {}
        self._first = pb.WatchRequest(added_user_ids=user_ids, own_activity=activity)
        self._takes_frames = takes_frames
        self.call: Any
        if takes_frames:
            self.call = client.presence.Watch(metadata=client.auth)
        else:
            request = pb.SubscribeRequest(user_ids=user_ids, own_activity=activity)
            self.call = client.presence.Subscribe(request, metadata=client.auth)

    async def __aenter__(self) -> Self:
        """Opens the stream and waits for the snapshot."""
        if self._takes_frames:
            await self.call.write(self._first)
        while not (await self.read()).snapshot:
            pass
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leaves."""
        self.call.cancel()

    async def write(self, **fields: Any) -> None:
        """Writes a frame."""
        await self.call.write(pb.WatchRequest(**fields))

    async def read(self) -> pb.PresenceUpdate:
        """Reads a frame."""
        async with asyncio.timeout(SILENT_FOR_S):
            response = await self.call.read()
        assert isinstance(response, pb.WatchResponse | pb.SubscribeResponse), "the stream ended"
        self.updates.append(response.update)
        self.newest.update({each.user_id: each for each in response.update.presences})
        return response.update

    def state(self, user_id: str) -> str:
        """Returns what was told of a user last; "": nothing."""
        return STATES[self.newest[user_id].state] if user_id in self.newest else ""

    async def until(self, user_id: str, state: str) -> pb.Presence:
        """Reads until a user was told to be so last."""
        while self.state(user_id) != state:
            await self.read()
        return self.newest[user_id]


async def presence_of(client: RpcClient, user_id: str) -> pb.Presence:
    """Asks once."""
    answer = await client.presence.GetPresence(pb.GetPresenceRequest(user_id=user_id), metadata=client.auth)
    return answer.presence
