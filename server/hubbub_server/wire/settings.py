"""Settings of users and of conversations, from requests. Checks what can be seen in the request alone."""

from collections.abc import Mapping, Sequence
from typing import Final, TypeVar

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from hubbub.conversation.v1 import conversation_pb2, read_state_pb2
from hubbub.user.v1 import preferences_pb2

from hubbub_server.domain.errors import InvalidField
from hubbub_server.domain.preferences import ConversationPreferences, Preferences
from hubbub_server.domain.receipts import ReceiptsMode
from hubbub_server.wire.preferences import conversation_preferences_from_pb, preferences_from_pb
from hubbub_server.wire.record_codec import MODE_FROM_PB
from hubbub_server.wire.times import check_time

M = TypeVar("M", preferences_pb2.Preferences, read_state_pb2.ConversationPreferences)

_ALL: Final = "*"
_OF_PREFERENCES: Final = {
    name: name
    for name in (
        *("notification_level", "do_not_disturb", "sends_read_receipts", "sends_typing"),
        *("presence_visibility", "status"),
    )
}
_OF_CONVERSATION: Final = {
    "mute_end_time": "mute_end_time_ms",
    "notification_level": "notification_level",
    "pinned": "pinned",
    "archived": "archived",
}

_OF_SETTINGS: Final = {"receipts_limit": "receipts_limit"}


def read_preferences(pb: preferences_pb2.Preferences, mask: FieldMask) -> tuple[Preferences, frozenset[str]]:
    """Reads new preferences and which of them count. Raises InvalidField."""
    names = _read_mask(mask, _OF_PREFERENCES)
    pb = _named(pb, _OF_PREFERENCES, names)
    _check_enum("notification_level", pb.notification_level, read_state_pb2.NotificationLevel.values())
    _check_enum("presence_visibility", pb.presence_visibility, preferences_pb2.PresenceVisibility.values())
    _check_enum("status.state", pb.status.state, preferences_pb2.StatusState.values())
    _check_time("status.expire_time", pb.status.expire_time)
    return preferences_from_pb(pb), names


def read_conversation_preferences(
    pb: read_state_pb2.ConversationPreferences, mask: FieldMask
) -> tuple[ConversationPreferences, frozenset[str]]:
    """Reads new preferences of a conversation and which of them count. Raises InvalidField."""
    names = _read_mask(mask, _OF_CONVERSATION)
    pb = _named(pb, _OF_CONVERSATION, names)
    _check_enum("notification_level", pb.notification_level, read_state_pb2.NotificationLevel.values())
    _check_time("mute_end_time", pb.mute_end_time)
    return conversation_preferences_from_pb(pb), names


def read_conversation_settings(pb: conversation_pb2.ConversationSettings, mask: FieldMask) -> ReceiptsMode:
    """Reads new settings of a conversation: the limit of its receipts, the only one so far. Raises InvalidField."""
    _read_mask(mask, _OF_SETTINGS)
    if pb.receipts_limit not in MODE_FROM_PB:
        raise InvalidField("settings.receipts_limit", "one of the known values")
    return MODE_FROM_PB[pb.receipts_limit]


def _read_mask(mask: FieldMask, known: Mapping[str, str]) -> frozenset[str]:
    paths = list(known) if list(mask.paths) == [_ALL] else mask.paths
    if not paths or any(path not in known for path in paths):
        raise InvalidField("update_mask", f'"{_ALL}", or some of {", ".join(known)}')
    return frozenset(known[path] for path in paths)


def _named(pb: M, known: Mapping[str, str], names: frozenset[str]) -> M:
    """Returns the named fields alone: the others are not asked for, so nothing about them is wrong."""
    named = type(pb)()
    FieldMask(paths=[path for path, name in known.items() if name in names]).MergeMessage(pb, named)
    return named


def _check_enum(field: str, number: int, known: Sequence[int]) -> None:
    if number not in known:
        raise InvalidField(f"preferences.{field}", "one of the known values")


def _check_time(field: str, time: Timestamp) -> None:
    check_time(f"preferences.{field}", time)
