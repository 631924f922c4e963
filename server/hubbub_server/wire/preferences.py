"""What users want, to protobuf and back; with what a client says and what was stored alike."""

from typing import Final

from hubbub.conversation.v1 import read_state_pb2
from hubbub.user.v1 import preferences_pb2

from hubbub_server.domain.events import ReadMarker
from hubbub_server.domain.preferences import (
    ConversationPreferences,
    DoNotDisturbSchedule,
    NotificationLevel,
    Preferences,
    PresenceVisibility,
    QuietHours,
    Status,
    StatusState,
)
from hubbub_server.wire.times import milliseconds, timestamp

_LEVEL_TO_PB: Final = {
    NotificationLevel.INHERITED: read_state_pb2.NOTIFICATION_LEVEL_UNSPECIFIED,
    NotificationLevel.ALL: read_state_pb2.NOTIFICATION_LEVEL_ALL,
    NotificationLevel.MENTIONS: read_state_pb2.NOTIFICATION_LEVEL_MENTIONS,
    NotificationLevel.NONE: read_state_pb2.NOTIFICATION_LEVEL_NONE,
}
_VISIBILITY_TO_PB: Final = {
    PresenceVisibility.EVERYONE: preferences_pb2.PRESENCE_VISIBILITY_EVERYONE,
    PresenceVisibility.CONTACTS: preferences_pb2.PRESENCE_VISIBILITY_CONTACTS,
    PresenceVisibility.NOBODY: preferences_pb2.PRESENCE_VISIBILITY_NOBODY,
}
_STATUS_TO_PB: Final = {
    StatusState.AUTOMATIC: preferences_pb2.STATUS_STATE_AUTOMATIC,
    StatusState.ONLINE: preferences_pb2.STATUS_STATE_ONLINE,
    StatusState.AWAY: preferences_pb2.STATUS_STATE_AWAY,
    StatusState.DO_NOT_DISTURB: preferences_pb2.STATUS_STATE_DO_NOT_DISTURB,
    StatusState.INVISIBLE: preferences_pb2.STATUS_STATE_INVISIBLE,
}
_LEVEL_FROM_PB: Final = {number: level for level, number in _LEVEL_TO_PB.items()}
_VISIBILITY_FROM_PB: Final = {number: each for each, number in _VISIBILITY_TO_PB.items()}
_STATUS_FROM_PB: Final = {number: state for state, number in _STATUS_TO_PB.items()}


def marker_to_pb(marker: ReadMarker) -> read_state_pb2.ReadMarker:
    """Returns a marker."""
    return read_state_pb2.ReadMarker(
        epoch=marker.epoch, message_number=marker.message_number, counted_number=marker.counted_number
    )


def marker_from_pb(pb: read_state_pb2.ReadMarker) -> ReadMarker:
    """Reads a marker."""
    return ReadMarker(epoch=pb.epoch, message_number=pb.message_number, counted_number=pb.counted_number)


def conversation_preferences_to_pb(preferences: ConversationPreferences) -> read_state_pb2.ConversationPreferences:
    """Returns how a user wants to hear of a conversation."""
    end_ms = preferences.mute_end_time_ms
    return read_state_pb2.ConversationPreferences(
        mute_end_time=None if end_ms is None else timestamp(end_ms),
        notification_level=_LEVEL_TO_PB[preferences.notification_level],
        pinned=preferences.pinned,
        archived=preferences.archived,
    )


def conversation_preferences_from_pb(pb: read_state_pb2.ConversationPreferences) -> ConversationPreferences:
    """Reads them; an unknown level counts as ALL, as the contract says."""
    return ConversationPreferences(
        mute_end_time_ms=milliseconds(pb.mute_end_time) if pb.HasField("mute_end_time") else None,
        notification_level=_LEVEL_FROM_PB.get(pb.notification_level, NotificationLevel.ALL),
        pinned=pb.pinned,
        archived=pb.archived,
    )


def preferences_to_pb(preferences: Preferences) -> preferences_pb2.Preferences:
    """Returns what a user wants everywhere."""
    schedule, status = preferences.do_not_disturb, preferences.status
    return preferences_pb2.Preferences(
        notification_level=_LEVEL_TO_PB[preferences.notification_level],
        do_not_disturb=preferences_pb2.DoNotDisturbSchedule(
            time_zone=schedule.time_zone,
            hours=[
                preferences_pb2.QuietHours(
                    weekdays=each.weekdays, start_minute=each.start_minute, duration_minutes=each.duration_minutes
                )
                for each in schedule.hours
            ],
        ),
        sends_read_receipts=preferences.sends_read_receipts,
        sends_typing=preferences.sends_typing,
        presence_visibility=_VISIBILITY_TO_PB[preferences.presence_visibility],
        status=preferences_pb2.Status(
            state=_STATUS_TO_PB[status.state],
            text=status.text,
            emoji=status.emoji,
            expire_time=None if status.expire_time_ms is None else timestamp(status.expire_time_ms),
        ),
    )


def preferences_from_pb(pb: preferences_pb2.Preferences) -> Preferences:
    """Reads them; what this version does not know counts as the contract says: ALL, NOBODY, AUTOMATIC."""
    schedule, status = pb.do_not_disturb, pb.status
    level = _LEVEL_FROM_PB.get(pb.notification_level, NotificationLevel.ALL)
    return Preferences(
        notification_level=NotificationLevel.ALL if level is NotificationLevel.INHERITED else level,
        do_not_disturb=DoNotDisturbSchedule(
            time_zone=schedule.time_zone,
            hours=tuple(
                QuietHours(
                    weekdays=tuple(each.weekdays),
                    start_minute=each.start_minute,
                    duration_minutes=each.duration_minutes,
                )
                for each in schedule.hours
            ),
        ),
        sends_read_receipts=pb.sends_read_receipts,
        sends_typing=pb.sends_typing,
        presence_visibility=_visibility_from_pb(pb.presence_visibility),
        status=Status(
            state=_STATUS_FROM_PB.get(status.state, StatusState.AUTOMATIC),
            text=status.text,
            emoji=status.emoji,
            expire_time_ms=milliseconds(status.expire_time) if status.HasField("expire_time") else None,
        ),
    )


def _visibility_from_pb(number: preferences_pb2.PresenceVisibility.ValueType) -> PresenceVisibility:
    if number == preferences_pb2.PRESENCE_VISIBILITY_UNSPECIFIED:
        return PresenceVisibility.EVERYONE
    return _VISIBILITY_FROM_PB.get(number, PresenceVisibility.NOBODY)
