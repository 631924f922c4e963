"""Turns what a user keeps about conversations and wants everywhere into values, and back."""

from datetime import UTC, datetime

from google.protobuf import timestamp_pb2
from hubbub.chat.v1 import marker_service_pb2 as markers_pb
from hubbub.conversation.v1 import conversation_pb2, read_state_pb2
from hubbub.user.v1 import preferences_pb2
from hubbub.user.v1 import settings_service_pb2 as settings_pb

from hubbub_client import kept

_LEVELS = {
    read_state_pb2.NOTIFICATION_LEVEL_UNSPECIFIED: kept.NotificationLevel.DEFAULT,
    read_state_pb2.NOTIFICATION_LEVEL_ALL: kept.NotificationLevel.ALL,
    read_state_pb2.NOTIFICATION_LEVEL_MENTIONS: kept.NotificationLevel.MENTIONS,
    read_state_pb2.NOTIFICATION_LEVEL_NONE: kept.NotificationLevel.NONE,
}
_LEVELS_TO_PB = {level: pb for pb, level in _LEVELS.items()}
_MODES = {
    read_state_pb2.RECEIPTS_MODE_FULL: kept.ReceiptsMode.FULL,
    read_state_pb2.RECEIPTS_MODE_COUNT_ONLY: kept.ReceiptsMode.COUNT_ONLY,
}
_MODES_TO_PB = {mode: pb for pb, mode in _MODES.items()} | {kept.ReceiptsMode.OFF: read_state_pb2.RECEIPTS_MODE_OFF}
_VISIBILITIES = {
    preferences_pb2.PRESENCE_VISIBILITY_EVERYONE: kept.PresenceVisibility.EVERYONE,
    preferences_pb2.PRESENCE_VISIBILITY_CONTACTS: kept.PresenceVisibility.CONTACTS,
    preferences_pb2.PRESENCE_VISIBILITY_NOBODY: kept.PresenceVisibility.NOBODY,
}
_VISIBILITIES_TO_PB = {visibility: pb for pb, visibility in _VISIBILITIES.items()}


def write_time(time: datetime | None) -> timestamp_pb2.Timestamp | None:
    """Returns the message for an aware time; None stays unset."""
    if time is None:
        return None
    stamp = timestamp_pb2.Timestamp()
    stamp.FromDatetime(time)
    return stamp


def read_level(pb: read_state_pb2.NotificationLevel.ValueType) -> kept.NotificationLevel:
    """Returns which messages notify."""
    return _LEVELS.get(pb, kept.NotificationLevel.ALL)


def read_mode(pb: read_state_pb2.ReceiptsMode.ValueType) -> kept.ReceiptsMode:
    """Returns what members learn of each other's reading."""
    return _MODES.get(pb, kept.ReceiptsMode.OFF)


def read_conversation_settings(pb: conversation_pb2.ConversationSettings) -> kept.ConversationSettings:
    """Returns what owners and admins decided; without a limit it is that of a new group."""
    limit = pb.receipts_limit
    is_unset = limit == read_state_pb2.RECEIPTS_MODE_UNSPECIFIED
    return kept.ConversationSettings() if is_unset else kept.ConversationSettings(receipts_limit=read_mode(limit))


def write_mode(mode: kept.ReceiptsMode) -> read_state_pb2.ReceiptsMode.ValueType:
    """Returns the message for what members learn of each other's reading."""
    return _MODES_TO_PB[mode]


def read_marker(pb: read_state_pb2.ReadMarker) -> kept.ReadMarker:
    """Returns how far somebody has read."""
    return kept.ReadMarker(epoch=pb.epoch, message_number=pb.message_number, counted_number=pb.counted_number)


def read_read_state(pb: read_state_pb2.ReadState) -> kept.ReadState:
    """Returns what is unread."""
    return kept.ReadState(
        marker=read_marker(pb.marker),
        unread_count=pb.unread_count,
        mention_count=pb.mention_count,
        unread_mark_position=pb.unread_mark_position,
    )


def read_counters(pb: markers_pb.GetCountersResponse) -> kept.Counters:
    """Returns what is unread as the server says. It does not say which conversations are muted."""
    return kept.Counters(
        badge_count=pb.badge_count,
        mention_count=pb.mention_count,
        of_conversations={
            one.conversation_id: kept.ConversationCounters(
                unread_count=one.read_state.unread_count,
                mention_count=one.read_state.mention_count,
                is_marked_unread=one.read_state.unread_mark_position > 0,
                is_muted=False,
            )
            for one in pb.counters
        },
        is_exact=True,
    )


def read_conversation_preferences(pb: read_state_pb2.ConversationPreferences) -> kept.ConversationPreferences:
    """Returns how the user wants to hear of a conversation."""
    return kept.ConversationPreferences(
        mute_end_time=pb.mute_end_time.ToDatetime(tzinfo=UTC) if pb.HasField("mute_end_time") else None,
        notification_level=read_level(pb.notification_level),
        is_pinned=pb.pinned,
        is_archived=pb.archived,
    )


def write_conversation_preferences(value: kept.ConversationPreferences) -> read_state_pb2.ConversationPreferences:
    """Returns the message for how the user wants to hear of a conversation."""
    return read_state_pb2.ConversationPreferences(
        mute_end_time=write_time(value.mute_end_time),
        notification_level=_LEVELS_TO_PB[value.notification_level],
        pinned=value.is_pinned,
        archived=value.is_archived,
    )


def read_preferences(pb: preferences_pb2.Preferences) -> kept.Preferences:
    """Returns what the user wants everywhere."""
    schedule = pb.do_not_disturb
    return kept.Preferences(
        notification_level=read_level(pb.notification_level),
        do_not_disturb=kept.DoNotDisturbSchedule(
            time_zone=schedule.time_zone,
            hours=tuple(
                kept.QuietHours(
                    weekdays=tuple(hours.weekdays),
                    start_minute=hours.start_minute,
                    duration_minutes=hours.duration_minutes,
                )
                for hours in schedule.hours
            ),
        ),
        sends_read_receipts=pb.sends_read_receipts,
        sends_typing=pb.sends_typing,
        presence_visibility=_VISIBILITIES.get(pb.presence_visibility, kept.PresenceVisibility.NOBODY),
    )


def write_preferences(value: kept.Preferences) -> preferences_pb2.Preferences:
    """Returns the message for what the user wants everywhere."""
    schedule = value.do_not_disturb
    return preferences_pb2.Preferences(
        notification_level=_LEVELS_TO_PB[value.notification_level],
        do_not_disturb=preferences_pb2.DoNotDisturbSchedule(
            time_zone=schedule.time_zone,
            hours=[
                preferences_pb2.QuietHours(
                    weekdays=hours.weekdays, start_minute=hours.start_minute, duration_minutes=hours.duration_minutes
                )
                for hours in schedule.hours
            ],
        ),
        sends_read_receipts=value.sends_read_receipts,
        sends_typing=value.sends_typing,
        presence_visibility=_VISIBILITIES_TO_PB[value.presence_visibility],
    )


def read_draft(pb: settings_pb.Draft) -> kept.Draft:
    """Returns what the user has begun to write."""
    return kept.Draft(
        conversation_id=pb.conversation_id, text=pb.text, change_time=pb.change_time.ToDatetime(tzinfo=UTC)
    )
