"""Who is there: values of presence. Plain data."""

from dataclasses import dataclass
from datetime import datetime
from enum import Enum


class PresenceState(Enum):
    """Whether a user is there. UNKNOWN: the server, or this client, does not know now. Newer ones read as ONLINE."""

    UNKNOWN = "unknown"
    OFFLINE = "offline"
    ONLINE = "online"
    AWAY = "away"
    DO_NOT_DISTURB = "do_not_disturb"


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """The presence of one user, as the caller may see it.

    `last_seen_time` only with OFFLINE: to about 10 s; None: not known, or hidden.
    """

    user_id: str
    state: PresenceState
    status_text: str = ""
    status_emoji: str = ""
    status_expire_time: datetime | None = None
    last_seen_time: datetime | None = None
    version: int = 0


class ManualState(Enum):
    """What a user states by hand; newer ones read as AUTOMATIC."""

    AUTOMATIC = "automatic"
    ONLINE = "online"
    AWAY = "away"
    DO_NOT_DISTURB = "do_not_disturb"
    INVISIBLE = "invisible"


@dataclass(frozen=True, slots=True, kw_only=True)
class ManualPresence:
    """What a user shows by hand, on all devices, until `expire_time`; None: until it is changed."""

    state: ManualState = ManualState.AUTOMATIC
    text: str = ""
    emoji: str = ""
    expire_time: datetime | None = None


class Activity(Enum):
    """What a client says of its own use. BACKGROUND: it shows nobody's presence, and gets no changes."""

    ACTIVE = "active"
    INACTIVE = "inactive"
    BACKGROUND = "background"


@dataclass(frozen=True, slots=True, kw_only=True)
class PresenceSummary:
    """How many members are there, up to 10 s old; `is_unknown`: the server does not know, or may not say."""

    member_count: int
    present_count: int
    is_unknown: bool
