"""Presence: requests to values, values to bytes.

WatchResponse and SubscribeResponse are alike, and like the frames of other streams: field 1 is what is told.
"""

from collections.abc import Iterable
from typing import Final

from google.protobuf.message import DecodeError
from hubbub.presence.v1 import presence_service_pb2 as pb

from hubbub_server.app.watch_presence import PresenceReport, WatchCommand, WatchFrame
from hubbub_server.domain.errors import InvalidField, ProtocolBreach
from hubbub_server.domain.ids import UserId
from hubbub_server.domain.limits import FRAME_MAX_BYTES
from hubbub_server.domain.preferences import Status, StatusState
from hubbub_server.domain.presence import WATCHED_MAX, Activity, PresenceState
from hubbub_server.wire.times import check_time, milliseconds, timestamp

_STATE_TO_PB: Final = {
    PresenceState.UNKNOWN: pb.PRESENCE_STATE_UNSPECIFIED,
    PresenceState.OFFLINE: pb.PRESENCE_STATE_OFFLINE,
    PresenceState.ONLINE: pb.PRESENCE_STATE_ONLINE,
    PresenceState.AWAY: pb.PRESENCE_STATE_AWAY,
    PresenceState.DO_NOT_DISTURB: pb.PRESENCE_STATE_DO_NOT_DISTURB,
}
_ACTIVITIES: Final = {
    pb.ACTIVITY_UNSPECIFIED: None,
    pb.ACTIVITY_ACTIVE: Activity.ACTIVE,
    pb.ACTIVITY_INACTIVE: Activity.INACTIVE,
    pb.ACTIVITY_BACKGROUND: Activity.INACTIVE,
}
_MANUAL_STATES: Final = {
    pb.MANUAL_STATE_UNSPECIFIED: StatusState.AUTOMATIC,
    pb.MANUAL_STATE_ONLINE: StatusState.ONLINE,
    pb.MANUAL_STATE_AWAY: StatusState.AWAY,
    pb.MANUAL_STATE_DO_NOT_DISTURB: StatusState.DO_NOT_DISTURB,
    pb.MANUAL_STATE_INVISIBLE: StatusState.INVISIBLE,
}
_MANUAL_STATE_TO_PB: Final = {state: number for number, state in _MANUAL_STATES.items()}


def read_watch_request(message: bytes, _user_id: UserId) -> WatchCommand:
    """Reads a frame of a watcher.

    Raises:
        ProtocolBreach: it is larger than 256 KiB, or none.
        InvalidField: a field breaks its rule.
    """
    if len(message) > FRAME_MAX_BYTES:
        raise ProtocolBreach(f"a frame has at most {FRAME_MAX_BYTES} bytes")
    try:
        request = pb.WatchRequest.FromString(message)
    except DecodeError as exc:
        raise ProtocolBreach("something that is no frame") from exc
    return WatchCommand(
        added=_ids("added_user_ids", request.added_user_ids),
        removed=_ids("removed_user_ids", request.removed_user_ids),
        activity=_activity(request.own_activity),
        is_background=request.own_activity == pb.ACTIVITY_BACKGROUND,
    )


def read_subscribe_request(request: pb.SubscribeRequest) -> WatchCommand:
    """Reads what opens a stream for those who cannot stream upwards. Raises InvalidField."""
    user_ids = _ids("user_ids", request.user_ids)
    if not 1 <= len(set(user_ids)) <= WATCHED_MAX:
        raise InvalidField("user_ids", f"1 to {WATCHED_MAX} users")
    return WatchCommand(
        added=user_ids,
        activity=_activity(request.own_activity),
        is_background=request.own_activity == pb.ACTIVITY_BACKGROUND,
    )


def _ids(field: str, user_ids: Iterable[str]) -> tuple[str, ...]:
    ids = tuple(user_ids)
    if not all(ids):
        raise InvalidField(field, "user ids, none empty")
    return ids


def _activity(activity: pb.Activity.ValueType) -> Activity | None:
    if activity not in _ACTIVITIES:
        raise InvalidField("own_activity", "one of the known activities")
    return _ACTIVITIES[activity]


def encode_update(frame: WatchFrame) -> bytes:
    """Returns the bytes of a PresenceUpdate."""
    update = pb.PresenceUpdate(presences=map(presence_to_pb, frame.reports), snapshot=frame.is_snapshot)
    return update.SerializeToString(deterministic=True)


def presence_to_pb(report: PresenceReport) -> pb.Presence:
    """Returns what one user shows."""
    shown = report.shown
    return pb.Presence(
        user_id=report.user_id,
        state=_STATE_TO_PB[shown.state],
        version=report.version,
        status_text=shown.text,
        status_emoji=shown.emoji,
        status_expire_time=timestamp(shown.expire_time_ms) if shown.expire_time_ms else None,
        last_seen_time=timestamp(shown.last_seen_ms) if shown.last_seen_ms else None,
    )


def status_from_pb(manual: pb.ManualPresence) -> Status:
    """Reads what a user sets by hand. Raises InvalidField: no state, no time; `check_status` does the rest."""
    if manual.state not in _MANUAL_STATES:
        raise InvalidField("presence.state", "one of the known states")
    check_time("presence.expire_time", manual.expire_time)
    return Status(
        state=_MANUAL_STATES[manual.state],
        text=manual.text,
        emoji=manual.emoji,
        expire_time_ms=milliseconds(manual.expire_time) if manual.HasField("expire_time") else None,
    )


def status_to_pb(status: Status) -> pb.ManualPresence:
    """Returns what a user has set by hand."""
    return pb.ManualPresence(
        state=_MANUAL_STATE_TO_PB[status.state],
        text=status.text,
        emoji=status.emoji,
        expire_time=None if status.expire_time_ms is None else timestamp(status.expire_time_ms),
    )
