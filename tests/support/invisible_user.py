"""A user with several devices on several nodes who does all that nobody else is to see."""

import asyncio
import random
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from hubbub.auth.v1 import auth_service_pb2 as auth
from hubbub.chat.v1 import frame_pb2
from hubbub.chat.v1 import marker_service_pb2 as marker
from hubbub.conversation.v1 import conversation_pb2, read_state_pb2
from hubbub.conversation.v1 import conversation_service_pb2 as conversation
from hubbub.history.v1 import history_service_pb2 as history
from hubbub.presence.v1 import presence_service_pb2 as presence
from hubbub.user.v1 import preferences_pb2
from hubbub.user.v1 import settings_service_pb2 as settings

from tests.support.live_client import LiveClient
from tests.support.node import PASSWORD, RpcClient

ACTIONS: Final = 30
_FAR: Final = Timestamp(seconds=253_402_300_799)


class UnseenUser:
    """Invisible, and busy. `clients` are the user's on each node, `newest` the newest message of each conversation."""

    def __init__(self, clients: Sequence[RpcClient], login_name: str, other_id: str, newest: dict[str, int]) -> None:
        self._clients = clients
        self._client = clients[0]
        self._login_name = login_name
        self._other_id = other_id
        self._newest = newest
        self._turn = 0
        self._chats: list[LiveClient] = []
        self._watches: list[Any] = []
        self.actions: dict[str, Callable[[], Awaitable[object]]] = {
            "open chat": self._open_chat,
            "close chat": self._close_chat,
            "watch": self._watch,
            "stop watching": self._stop_watching,
            "subscribe": self._subscribe,
            "active": lambda: self._report(presence.ACTIVITY_ACTIVE),
            "inactive": lambda: self._report(presence.ACTIVITY_INACTIVE),
            "background": lambda: self._report(presence.ACTIVITY_BACKGROUND),
            "set text": self._set_text,
            "read": self._read,
            "read in band": self._read_in_band,
            "receive": self._receive,
            "receive in band": self._receive_in_band,
            "type": lambda: self._type(active=True),
            "type in band": self._type_in_band,
            "stop typing": lambda: self._type(active=False),
            "mark unread": self._mark_unread,
            "draft": self._draft,
            "mute and pin": self._mute_and_pin,
            "prefer": self._prefer,
            "look around": self._look_around,
            "sync": self._sync,
            "log in": self._log_in,
        }

    def script(self, seed: int) -> list[str]:
        """Returns 30 things to do, all kinds among them."""
        chooser = random.Random(seed)
        chosen = [*self.actions, *chooser.choices([*self.actions], k=ACTIONS - len(self.actions))]
        chooser.shuffle(chosen)
        return chosen

    async def act(self, action: str, *, node: int = 0) -> None:
        """Does one thing on a node, and waits for its answer."""
        self._client = self._clients[node]
        await self.actions[action]()
        self._turn += 1

    def leave(self) -> None:
        """Ends all streams."""
        for live in self._chats:
            live.call.cancel()
        for call in self._watches:
            call.cancel()

    @property
    def _conversation_id(self) -> str:
        return [*self._newest][self._turn // 2 % len(self._newest)]

    async def _open_chat(self) -> None:
        self._chats.append(await LiveClient.connect(self._client))

    async def _close_chat(self) -> None:
        if self._chats:
            self._chats.pop().call.cancel()

    async def _watch(self) -> None:
        call = self._client.presence.Watch(metadata=self._client.auth)
        await call.write(presence.WatchRequest(added_user_ids=[self._other_id], own_activity=presence.ACTIVITY_ACTIVE))
        await call.read()
        self._watches.append(call)

    async def _subscribe(self) -> None:
        request = presence.SubscribeRequest(user_ids=[self._other_id], own_activity=presence.ACTIVITY_ACTIVE)
        call: Any = self._client.presence.Subscribe(request, metadata=self._client.auth)
        await call.read()
        self._watches.append(call)

    async def _stop_watching(self) -> None:
        if self._watches:
            self._watches.pop().cancel()

    async def _report(self, activity: presence.Activity.ValueType) -> None:
        await self._watch()
        await self._watches[-1].write(presence.WatchRequest(own_activity=activity))

    async def _set_text(self) -> None:
        manual = presence.ManualPresence(state=presence.MANUAL_STATE_INVISIBLE, text=f"text {self._turn}", emoji="🙈")
        request = presence.SetPresenceRequest(presence=manual)
        await self._client.presence.SetPresence(request, metadata=self._client.auth)

    def _newest_read(self) -> frame_pb2.MarkReadRequest:
        conversation_id = self._conversation_id
        return frame_pb2.MarkReadRequest(conversation_id=conversation_id, message_number=self._newest[conversation_id])

    async def _read(self) -> None:
        await self._client.markers.MarkRead(self._newest_read(), metadata=self._client.auth)

    async def _read_in_band(self) -> None:
        await self._in_band(frame_pb2.Command(request_id=str(uuid.uuid4()), mark_read=self._newest_read()))

    def _newest_received(self) -> frame_pb2.MarkDeliveredRequest:
        read = self._newest_read()
        return frame_pb2.MarkDeliveredRequest(conversation_id=read.conversation_id, message_number=read.message_number)

    async def _receive(self) -> None:
        await self._client.markers.MarkDelivered(self._newest_received(), metadata=self._client.auth)

    async def _receive_in_band(self) -> None:
        await self._in_band(frame_pb2.Command(request_id=str(uuid.uuid4()), mark_delivered=self._newest_received()))

    def _typing(self, *, active: bool) -> frame_pb2.SetTypingRequest:
        return frame_pb2.SetTypingRequest(conversation_id=self._conversation_id, active=active)

    async def _type(self, *, active: bool) -> None:
        await self._client.chat.SetTyping(self._typing(active=active), metadata=self._client.auth)

    async def _type_in_band(self) -> None:
        """On a stream that is closed then, which would end the typing."""
        await self._in_band(frame_pb2.Command(request_id=str(uuid.uuid4()), set_typing=self._typing(active=True)))

    async def type_in_chat(self) -> None:
        """On a stream that stays open, so that being invisible or its end is what ends the typing."""
        live = self._chats[-1]
        command = frame_pb2.Command(request_id=str(uuid.uuid4()), set_typing=self._typing(active=True))
        await live.command(command)
        await live.answer(command.request_id)

    async def _in_band(self, command: frame_pb2.Command) -> None:
        live = await LiveClient.connect(self._client)
        await live.command(command)
        answer = await live.answer(command.request_id)
        assert answer.HasField("reply")
        live.call.cancel()

    async def _mark_unread(self) -> None:
        request = marker.MarkUnreadRequest(conversation_id=self._conversation_id)
        await self._client.markers.MarkUnread(request, metadata=self._client.auth)

    async def _draft(self) -> None:
        request = settings.SetDraftRequest(conversation_id=self._conversation_id, text=f"I th{self._turn}")
        await self._client.settings.SetDraft(request, metadata=self._client.auth)

    async def _mute_and_pin(self) -> None:
        wanted = read_state_pb2.ConversationPreferences(mute_end_time=_FAR, pinned=self._turn % 2 == 0, archived=True)
        request = settings.UpdateConversationPreferencesRequest(
            conversation_id=self._conversation_id,
            preferences=wanted,
            update_mask=FieldMask(paths=["mute_end_time", "pinned", "archived"]),
        )
        await self._client.settings.UpdateConversationPreferences(request, metadata=self._client.auth)

    async def _prefer(self) -> None:
        level = (read_state_pb2.NOTIFICATION_LEVEL_MENTIONS, read_state_pb2.NOTIFICATION_LEVEL_NONE)[self._turn % 2]
        wanted = preferences_pb2.Preferences(notification_level=level)
        request = settings.UpdatePreferencesRequest(
            preferences=wanted, update_mask=FieldMask(paths=["notification_level"])
        )
        await self._client.settings.UpdatePreferences(request, metadata=self._client.auth)

    async def _look_around(self) -> None:
        client = self._client
        presence_of = presence.ListPresenceRequest(user_ids=[self._other_id])
        listed = conversation.ListConversationsRequest()
        await asyncio.gather(
            client.presence.ListPresence(presence_of, metadata=client.auth),
            client.conversations.ListConversations(listed, metadata=client.auth),
            client.markers.GetCounters(marker.GetCountersRequest(), metadata=client.auth),
        )

    async def _sync(self) -> None:
        cursors = [conversation_pb2.Cursor(topic_id=each, epoch=1) for each in self._newest]
        request = history.SyncOnceRequest(request=history.SyncRequest(cursors=cursors))
        call = self._client.history.SyncOnce(request, metadata=self._client.auth)
        assert [response async for response in call]

    async def _log_in(self) -> None:
        request = auth.LoginRequest(login_name=self._login_name, password=PASSWORD)
        await self._client.accounts.Login(request)
