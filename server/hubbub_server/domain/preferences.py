"""What a user wants: everywhere, and of one conversation. Values and their rules; user_topic.py keeps them."""

import re
from collections.abc import Collection
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from typing import Final, TypeVar

from hubbub_server.domain.errors import InvalidField
from hubbub_server.domain.limits import (
    QUIET_HOURS_MAX,
    STATUS_EMOJI_MAX_CODE_POINTS,
    STATUS_TEXT_MAX_CODE_POINTS,
    has_control,
)

_TIME_ZONE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*")
_TIME_ZONE_MAX_CHARACTERS: Final = 64
_MINUTES_PER_DAY: Final = 24 * 60


class NotificationLevel(Enum):
    """Which messages notify; INHERITED: as the level above says, and above all ALL."""

    INHERITED = "inherited"
    ALL = "all"
    MENTIONS = "mentions"
    NONE = "none"


class PresenceVisibility(Enum):
    """Who may know whether the user is there."""

    EVERYONE = "everyone"
    CONTACTS = "contacts"
    NOBODY = "nobody"


class StatusState(Enum):
    """What users state about themselves."""

    AUTOMATIC = "automatic"
    ONLINE = "online"
    AWAY = "away"
    DO_NOT_DISTURB = "do_not_disturb"
    INVISIBLE = "invisible"


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What a user states. Over at `expire_time_ms`; None: never."""

    state: StatusState = StatusState.AUTOMATIC
    text: str = ""
    emoji: str = ""
    expire_time_ms: int | None = None

    def at(self, now_ms: int) -> "Status":
        """Returns what counts at a time: this one, or, when it is over, none."""
        return self if self.expire_time_ms is None or now_ms < self.expire_time_ms else Status()

    def hides(self, now_ms: int) -> bool:
        """Tells whether the user is invisible: others see somebody who signed out, who neither reads nor types."""
        return self.at(now_ms).state is StatusState.INVISIBLE


@dataclass(frozen=True, slots=True, kw_only=True)
class QuietHours:
    """Begins on these days (1 = Monday) at a minute of the day; lasts 1 to 1,440 minutes, over midnight as well."""

    weekdays: tuple[int, ...]
    start_minute: int
    duration_minutes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DoNotDisturbSchedule:
    """When nothing notifies, at the wall clock of an IANA time zone."""

    time_zone: str = ""
    hours: tuple[QuietHours, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Preferences:
    """What a user wants everywhere; the defaults are those of a user who never changed anything."""

    notification_level: NotificationLevel = NotificationLevel.ALL
    do_not_disturb: DoNotDisturbSchedule = field(default_factory=DoNotDisturbSchedule)
    sends_read_receipts: bool = True
    sends_typing: bool = True
    presence_visibility: PresenceVisibility = PresenceVisibility.EVERYONE
    status: Status = field(default_factory=Status)

    def shows_reading(self, now_ms: int) -> bool:
        """Tells whether others may know what the user reads."""
        return self.sends_read_receipts and not self.status.hides(now_ms)

    def shows_deliveries(self, now_ms: int) -> bool:
        """Tells whether others may know what the user's devices receive: that says when they are there, too."""
        return self.shows_reading(now_ms) and self.presence_visibility is not PresenceVisibility.NOBODY

    def shows_typing(self, now_ms: int) -> bool:
        """Tells whether others may know when the user types."""
        return self.sends_typing and not self.status.hides(now_ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationPreferences:
    """How a user wants to hear of a conversation. Muted until `mute_end_time_ms`; None: not muted."""

    mute_end_time_ms: int | None = None
    notification_level: NotificationLevel = NotificationLevel.INHERITED
    pinned: bool = False
    archived: bool = False

    def is_muted(self, now_ms: int) -> bool:
        """Tells whether nothing of the conversation notifies at that time, and it stays out of the badge."""
        return self.mute_end_time_ms is not None and now_ms < self.mute_end_time_ms


P = TypeVar("P", Preferences, ConversationPreferences)


def updated(before: P, values: P, names: Collection[str]) -> P:
    """Returns `before` with the named fields of `values`. Every name is that of a field."""
    return replace(before, **{each.name: getattr(values, each.name) for each in fields(before) if each.name in names})


def check_preferences(field_path: str, preferences: Preferences) -> None:
    """Checks what a client wants to set.

    Raises:
        InvalidField: a part of it breaks its rule; `field_path` is where the preferences are in the request.
    """
    _check_schedule(f"{field_path}.do_not_disturb", preferences.do_not_disturb)
    check_status(f"{field_path}.status", preferences.status)


def _check_schedule(path: str, schedule: DoNotDisturbSchedule) -> None:
    zone = schedule.time_zone
    if (schedule.hours and not zone) or (zone and not _is_zone_name(zone)):
        raise InvalidField(f"{path}.time_zone", 'the name of an IANA time zone, as "Europe/Vienna"')
    if len(schedule.hours) > QUIET_HOURS_MAX:
        raise InvalidField(f"{path}.hours", f"at most {QUIET_HOURS_MAX}")
    for index, each in enumerate(schedule.hours):
        days = each.weekdays
        if not days or list(days) != sorted(set(days)) or not 1 <= days[0] <= days[-1] <= 7:
            raise InvalidField(f"{path}.hours[{index}].weekdays", "1 to 7, each once, ascending, at least one")
        if not 0 <= each.start_minute < _MINUTES_PER_DAY:
            raise InvalidField(f"{path}.hours[{index}].start_minute", f"0 to {_MINUTES_PER_DAY - 1}")
        if not 1 <= each.duration_minutes <= _MINUTES_PER_DAY:
            raise InvalidField(f"{path}.hours[{index}].duration_minutes", f"1 to {_MINUTES_PER_DAY}")


def _is_zone_name(name: str) -> bool:
    """Tells whether it looks like one: which zones there are changes, and differs from one machine to the next."""
    return len(name) <= _TIME_ZONE_MAX_CHARACTERS and _TIME_ZONE.fullmatch(name) is not None


def check_status(path: str, status: Status) -> None:
    """Checks what a user wants to state. Raises InvalidField; `path` is where it is in the request."""
    if len(status.text) > STATUS_TEXT_MAX_CODE_POINTS or has_control(status.text):
        raise InvalidField(
            f"{path}.text", f"at most {STATUS_TEXT_MAX_CODE_POINTS} code points, no control or direction characters"
        )
    if len(status.emoji) > STATUS_EMOJI_MAX_CODE_POINTS or has_control(status.emoji) or " " in status.emoji:
        raise InvalidField(f"{path}.emoji", f"one emoji of at most {STATUS_EMOJI_MAX_CODE_POINTS} code points")
