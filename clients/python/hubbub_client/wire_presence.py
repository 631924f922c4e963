"""Turns the contract's messages of presence into values, and back."""

from datetime import UTC

from hubbub.presence.v1 import presence_service_pb2 as presence_pb

from hubbub_client import presences
from hubbub_client.wire_kept import write_time

_STATES = {
    presence_pb.PRESENCE_STATE_UNSPECIFIED: presences.PresenceState.UNKNOWN,
    presence_pb.PRESENCE_STATE_OFFLINE: presences.PresenceState.OFFLINE,
    presence_pb.PRESENCE_STATE_ONLINE: presences.PresenceState.ONLINE,
    presence_pb.PRESENCE_STATE_AWAY: presences.PresenceState.AWAY,
    presence_pb.PRESENCE_STATE_DO_NOT_DISTURB: presences.PresenceState.DO_NOT_DISTURB,
}
_MANUAL = {
    presence_pb.MANUAL_STATE_ONLINE: presences.ManualState.ONLINE,
    presence_pb.MANUAL_STATE_AWAY: presences.ManualState.AWAY,
    presence_pb.MANUAL_STATE_DO_NOT_DISTURB: presences.ManualState.DO_NOT_DISTURB,
    presence_pb.MANUAL_STATE_INVISIBLE: presences.ManualState.INVISIBLE,
}
_MANUAL_TO_PB = {state: pb for pb, state in _MANUAL.items()}
_ACTIVITIES = {
    presences.Activity.ACTIVE: presence_pb.ACTIVITY_ACTIVE,
    presences.Activity.INACTIVE: presence_pb.ACTIVITY_INACTIVE,
    presences.Activity.BACKGROUND: presence_pb.ACTIVITY_BACKGROUND,
}


def read_presence(pb: presence_pb.Presence) -> presences.Presence:
    """Returns the presence of a user."""
    return presences.Presence(
        user_id=pb.user_id,
        state=_STATES.get(pb.state, presences.PresenceState.ONLINE),
        status_text=pb.status_text,
        status_emoji=pb.status_emoji,
        status_expire_time=(
            pb.status_expire_time.ToDatetime(tzinfo=UTC) if pb.HasField("status_expire_time") else None
        ),
        last_seen_time=pb.last_seen_time.ToDatetime(tzinfo=UTC) if pb.HasField("last_seen_time") else None,
        version=pb.version,
    )


def read_manual(pb: presence_pb.ManualPresence) -> presences.ManualPresence:
    """Returns what a user shows by hand."""
    return presences.ManualPresence(
        state=_MANUAL.get(pb.state, presences.ManualState.AUTOMATIC),
        text=pb.text,
        emoji=pb.emoji,
        expire_time=pb.expire_time.ToDatetime(tzinfo=UTC) if pb.HasField("expire_time") else None,
    )


def write_manual(value: presences.ManualPresence) -> presence_pb.ManualPresence:
    """Returns the message for what a user shows by hand."""
    return presence_pb.ManualPresence(
        state=_MANUAL_TO_PB.get(value.state, presence_pb.MANUAL_STATE_UNSPECIFIED),
        text=value.text,
        emoji=value.emoji,
        expire_time=write_time(value.expire_time),
    )


def write_activity(value: presences.Activity | None) -> presence_pb.Activity.ValueType:
    """Returns the message for a client's use; None says nothing."""
    return presence_pb.ACTIVITY_UNSPECIFIED if value is None else _ACTIVITIES[value]
