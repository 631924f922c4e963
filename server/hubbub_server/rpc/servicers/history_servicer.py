"""Serves hubbub.history.v1.HistoryService. A request of Sync is answered before the next one is read."""

import asyncio
from collections.abc import Sequence
from typing import Final

from hubbub.conversation.v1 import conversation_pb2
from hubbub.history.v1 import history_service_pb2 as pb
from hubbub.history.v1 import history_service_pb2_grpc

from hubbub_server.app.frames import Events, Outgoing
from hubbub_server.app.read_history import PageSide, ReadHistory
from hubbub_server.app.session import CLIENT_SILENCE_S, TOKEN_GRACE_S
from hubbub_server.app.sync import Sync
from hubbub_server.domain.errors import CredentialsExpired, InvalidField, ProtocolBreach
from hubbub_server.ports.clock import Clock
from hubbub_server.rpc.call import Call, current_call
from hubbub_server.wire.frames import encode_messages
from hubbub_server.wire.requests import read_request, required
from hubbub_server.wire.values import cursor_from_pb, head_to_pb, stored_message_to_pb

_SIDES: Final = {
    pb.PAGE_SIDE_UNSPECIFIED: PageSide.BEFORE,
    pb.PAGE_SIDE_BEFORE: PageSide.BEFORE,
    pb.PAGE_SIDE_AFTER: PageSide.AFTER,
    pb.PAGE_SIDE_AROUND: PageSide.AROUND,
}
_FLUSH_FRAMES: Final = 64
_FLUSH_BYTES: Final = 128 * 1024


class HistoryServicer(history_service_pb2_grpc.HistoryServiceServicer):
    """Reads messages and missed events."""

    def __init__(
        self, history: ReadHistory, sync: Sync, clock: Clock, *, client_silence_s: float = CLIENT_SILENCE_S
    ) -> None:
        """Takes the use cases, and a clock to see when a token has ended during a stream.

        `client_silence_s` bounds how long Sync waits for a request.
        """
        self._history = history
        self._sync = sync
        self._clock = clock
        self._client_silence_s = client_silence_s

    # The generated base knows only generators; grpc.aio also takes coroutines that read and write themselves.

    async def Sync(self, request_iterator: object, context: object) -> None:  # type: ignore[override]  # see above
        """Brings topics up to date, request after request."""
        call = current_call()
        good_until_ms = call.authenticated.token_expire_time_ms + TOKEN_GRACE_S * 1000
        while (message := await self._next_request(call)) is not None:
            if self._clock.now_ms() > good_until_ms:
                raise CredentialsExpired("the access token ended")
            await self._serve(call, read_request(pb.SyncRequest.FromString, message).cursors)

    async def _next_request(self, call: Call) -> bytes | None:
        try:
            async with asyncio.timeout(self._client_silence_s):
                return await call.read()
        except TimeoutError as exc:
            raise ProtocolBreach(f"no request within {self._client_silence_s:g} s") from exc

    async def SyncOnce(self, request: pb.SyncOnceRequest, context: object) -> None:  # type: ignore[override]  # see above
        """Does one request of Sync."""
        if not request.HasField("request"):
            raise InvalidField("request", "required")
        await self._serve(current_call(), request.request.cursors)

    async def _serve(self, call: Call, cursors: Sequence[conversation_pb2.Cursor]) -> None:
        """Answers one request in few writes: what was found so far leaves when it is enough to fill one."""
        found: list[Outgoing] = []
        size_bytes = 0
        async for frame in self._sync.serve(call.authenticated.user_id, [cursor_from_pb(c) for c in cursors]):
            found.append(frame)
            size_bytes += len(frame.body) if isinstance(frame, Events) else 0
            if len(found) >= _FLUSH_FRAMES or size_bytes >= _FLUSH_BYTES:
                await _write(call, found)
                found, size_bytes = [], 0
        await _write(call, found)

    async def ListMessages(self, request: pb.ListMessagesRequest, context: object) -> pb.ListMessagesResponse:
        """Lists messages by number."""
        side = _SIDES.get(request.side)
        if side is None:
            raise InvalidField("side", "one of the known sides")
        page = await self._history.list_messages(
            current_call().authenticated.user_id,
            _conversation_id(request.conversation_id),
            anchor_number=request.anchor_number,
            side=side,
            page_size=request.page_size,
        )
        return pb.ListMessagesResponse(
            messages=map(stored_message_to_pb, page.messages),
            older_available=page.older_available,
            newer_available=page.newer_available,
            head=head_to_pb(page.head),
            head_unconfirmed=not page.is_head_confirmed,
        )

    async def GetMessage(self, request: pb.GetMessageRequest, context: object) -> pb.GetMessageResponse:
        """Gets one message."""
        found = await self._history.get_message(
            current_call().authenticated.user_id, _conversation_id(request.conversation_id), request.message_number
        )
        return pb.GetMessageResponse(
            message=stored_message_to_pb(found.message),
            head=head_to_pb(found.head),
            head_unconfirmed=not found.is_head_confirmed,
        )


def _conversation_id(text: str) -> str:
    current_call().conversation_id = text[:32]  # for the log: what a client sends may be anything
    return required("conversation_id", text)


async def _write(call: Call, frames: Sequence[Outgoing]) -> None:
    for message in encode_messages(frames):
        await call.write(message)
