"""What the user wants, on all their devices: `client.settings`. Each change comes back as an event on every device."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final, TypedDict, Unpack

from google.protobuf import field_mask_pb2
from hubbub.user.v1 import settings_service_pb2 as settings_pb

from hubbub_client import kept, wire_kept
from hubbub_client.unary import Unary

FOR_EVER: Final = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
# Names in the contract that differ from ours.
_NAMES: Final = {"is_pinned": "pinned", "is_archived": "archived"}


class ConversationChanges(TypedDict, total=False):
    """Fields of ConversationPreferences to change."""

    mute_end_time: datetime | None
    notification_level: kept.NotificationLevel
    is_pinned: bool
    is_archived: bool


class Changes(TypedDict, total=False):
    """Fields of Preferences to change."""

    notification_level: kept.NotificationLevel
    do_not_disturb: kept.DoNotDisturbSchedule
    sends_read_receipts: bool
    sends_typing: bool
    presence_visibility: kept.PresenceVisibility


class Settings:
    """Reads and changes what the user wants. Writes set a state, so they may be repeated. The client makes it."""

    def __init__(self, unary: Unary) -> None:
        self._unary = unary

    # ---- of one conversation

    async def mute(self, conversation_id: str, until: datetime = FOR_EVER) -> kept.ConversationPreferences:
        """Mutes a conversation until an aware time: no notifications, and nothing in the badge.

        Raises:
            ConversationNotFound: the caller is not a member.
        """
        return await self.update_conversation(conversation_id, mute_end_time=until)

    async def unmute(self, conversation_id: str) -> kept.ConversationPreferences:
        """Mutes a conversation no longer.

        Raises:
            ConversationNotFound: the caller is not a member.
        """
        return await self.update_conversation(conversation_id, mute_end_time=None)

    async def update_conversation(
        self, conversation_id: str, **changes: Unpack[ConversationChanges]
    ) -> kept.ConversationPreferences:
        """Changes the fields of ConversationPreferences that are named, and no others; returns all of them.

        Raises:
            ConversationNotFound: the caller is not a member.
            LimitReached: 20 conversations are pinned already.
        """
        request = settings_pb.UpdateConversationPreferencesRequest(
            conversation_id=conversation_id,
            preferences=wire_kept.write_conversation_preferences(kept.ConversationPreferences(**changes)),
            update_mask=_mask(changes),
        )
        answer = await self._unary.call(lambda stubs: stubs.settings.UpdateConversationPreferences, request)
        return wire_kept.read_conversation_preferences(answer.preferences)

    async def set_draft(self, conversation_id: str, text: str) -> None:
        """Keeps what the user has begun to write; empty text forgets it.

        Raises:
            ConversationNotFound: the caller is not a member.
            LimitReached: there are 50 drafts already, or 128 KiB of them.
        """
        request = settings_pb.SetDraftRequest(conversation_id=conversation_id, text=text)
        await self._unary.call(lambda stubs: stubs.settings.SetDraft, request)

    async def list_drafts(self) -> list[kept.Draft]:
        """Lists all drafts, newest first."""
        answer = await self._unary.call(lambda stubs: stubs.settings.ListDrafts, settings_pb.ListDraftsRequest())
        return [wire_kept.read_draft(draft) for draft in answer.drafts]

    # ---- everywhere

    async def get(self) -> kept.Preferences:
        """Gets what the user wants everywhere."""
        request = settings_pb.GetPreferencesRequest()
        answer = await self._unary.call(lambda stubs: stubs.settings.GetPreferences, request)
        return wire_kept.read_preferences(answer.preferences)

    async def update(self, **changes: Unpack[Changes]) -> kept.Preferences:
        """Changes the fields of Preferences that are named, and no others; returns all of them.

        Raises:
            InvalidField: the value is not allowed.
        """
        wanted = replace(_UNCHANGED, **changes)
        request = settings_pb.UpdatePreferencesRequest(
            preferences=wire_kept.write_preferences(wanted), update_mask=_mask(changes)
        )
        answer = await self._unary.call(lambda stubs: stubs.settings.UpdatePreferences, request)
        return wire_kept.read_preferences(answer.preferences)

    # ---- blocked users

    async def block_user(self, user_id: str) -> None:
        """Blocks a user: what they send to this one alone is refused; in groups hide it yourself (UserBlocked).

        Raises:
            UserNotFound: nobody has that id.
            LimitReached: 5,000 users are blocked already.
        """
        await self._unary.call(lambda stubs: stubs.settings.BlockUser, settings_pb.BlockUserRequest(user_id=user_id))

    async def unblock_user(self, user_id: str) -> None:
        """Blocks a user no longer. Who is not blocked stays so."""
        request = settings_pb.UnblockUserRequest(user_id=user_id)
        await self._unary.call(lambda stubs: stubs.settings.UnblockUser, request)

    async def list_blocked_users(self) -> list[str]:
        """Lists the ids of whom the user blocks, newest first."""
        request = settings_pb.ListBlockedUsersRequest(page_size=500)
        pages = self._unary.pages(lambda stubs: stubs.settings.ListBlockedUsers, request)
        return [user_id async for page in pages for user_id in page.user_ids]


_UNCHANGED: Final = kept.Preferences(
    notification_level=kept.NotificationLevel.ALL,
    do_not_disturb=kept.DoNotDisturbSchedule(),
    sends_read_receipts=True,
    sends_typing=True,
    presence_visibility=kept.PresenceVisibility.EVERYONE,
)
"""Stands where nothing is changed: the server looks at the named fields only."""


def _mask(names: Iterable[str]) -> field_mask_pb2.FieldMask:
    return field_mask_pb2.FieldMask(paths=[_NAMES.get(name, name) for name in names])
