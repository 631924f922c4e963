"""Who is there, and who may know: the rules of presence. Pure.

Theory of operation. Each node says of each of its users what *share* it has of them: whether a session of theirs is in
use, and what the user has set by hand. A share counts while its node's life is good; one that a user left behind counts
for the grace after that, whatever becomes of the node, so who comes back in time was never gone. All shares of a user
make up what they show, by the ladder: no share, offline; else what is set by hand, unless it expired; else all sessions
inactive, away; else online. Who is invisible has no share at all, so nothing can tell them from who signed out.

Times are the registry's, in Unix milliseconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from types import MappingProxyType
from typing import Final

from hubbub_server.domain.ids import ConversationId, UserId
from hubbub_server.domain.preferences import PresenceVisibility, Status, StatusState

GRACE_S: Final = 10.0
WATCHED_MAX: Final = 500
CHANGES_AT_ONCE: Final = 6
CHANGE_EVERY_S: Final = 60.0
_LAST_SEEN_WITHIN_MS: Final = 15_000


class Activity(IntEnum):
    """What a client says of its own use; of several the largest counts."""

    UNSTATED = 0
    INACTIVE = 1
    ACTIVE = 2


class PresenceState(Enum):
    """Whether a user is there."""

    UNKNOWN = "unknown"
    OFFLINE = "offline"
    ONLINE = "online"
    AWAY = "away"
    DO_NOT_DISTURB = "do_not_disturb"


_SHOWN: Final = {
    StatusState.ONLINE: PresenceState.ONLINE,
    StatusState.AWAY: PresenceState.AWAY,
    StatusState.DO_NOT_DISTURB: PresenceState.DO_NOT_DISTURB,
}


NO_STATUS: Final = Status()


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one node has of a user: the most active of its sessions, and the status as of `position` of their topic.

    `is_hidden`: the user shows their presence to nobody.
    """

    activity: Activity
    status: Status = NO_STATUS
    position: tuple[int, int] = (0, 0)
    """(epoch, position)"""
    is_hidden: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NotedShare:
    """A share as the registry has it: noted last when, and until when it counts; 0: as long as the life is good."""

    share: Share
    noted_ms: int
    until_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class UserSessions:
    """All that is known of a user's sessions: by life of the node, those that count, and when another one did last."""

    shares: Mapping[str, NotedShare] = field(default_factory=lambda: MappingProxyType({}))
    seen_ms: int = 0

    def without(self, lives: frozenset[str]) -> "UserSessions":
        """Returns what is left when these lives are over; what was left behind there still counts."""
        over = [each for life, each in self.shares.items() if life in lives and not each.until_ms]
        if not over:
            return self
        return UserSessions(
            shares={life: each for life, each in self.shares.items() if life not in lives or each.until_ms},
            seen_ms=max(self.seen_ms, *(each.noted_ms for each in over)),
        )


NO_SESSIONS: Final = UserSessions()


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What a user shows. Text, emoji and expiry are empty, and only `last_seen_ms` may be there, when offline."""

    state: PresenceState
    text: str = ""
    emoji: str = ""
    expire_time_ms: int | None = None
    last_seen_ms: int = 0


UNKNOWN: Final = Shown(state=PresenceState.UNKNOWN)
HIDDEN: Final = Shown(state=PresenceState.OFFLINE)
"""What those see who may not see."""


def shown(sessions: UserSessions, now_ms: int) -> Shown:
    """Climbs the ladder."""
    counting = [each.share for each in sessions.shares.values() if not each.until_ms or now_ms < each.until_ms]
    if not counting:
        noted = [each.noted_ms for each in sessions.shares.values()]
        return Shown(state=PresenceState.OFFLINE, last_seen_ms=max(sessions.seen_ms, *noted, 0))
    status = max(counting, key=lambda share: share.position).status.at(now_ms)
    return Shown(
        state=_SHOWN.get(status.state) or _by_activity(counting),
        text=status.text,
        emoji=status.emoji,
        expire_time_ms=status.expire_time_ms,
    )


def _by_activity(shares: list[Share]) -> PresenceState:
    """Sessions that say nothing change nothing, as long as others do: so who comes back is what they were."""
    most = max(share.activity for share in shares)
    return PresenceState.AWAY if most is Activity.INACTIVE else PresenceState.ONLINE


def changes_at_ms(sessions: UserSessions, now_ms: int) -> int:
    """Returns when a user shows something else although nothing happens; 0: never."""
    times = [each.until_ms for each in sessions.shares.values()]
    times += [each.share.status.expire_time_ms or 0 for each in sessions.shares.values()]
    return min((time for time in times if time > now_ms), default=0)


def is_news(before: Shown | None, after: Shown) -> bool:
    """Tells whether who knows `before` is to hear of `after`. When somebody was seen last is not that exact."""
    if before is None or before.state is not PresenceState.OFFLINE or after.state is not PresenceState.OFFLINE:
        return before != after
    return abs(before.last_seen_ms - after.last_seen_ms) > _LAST_SEEN_WITHIN_MS


# ---- who may know


@dataclass(frozen=True, slots=True, kw_only=True)
class UserFacts:
    """What a user's own topic says that presence needs, as of `position` = (epoch, position)."""

    position: tuple[int, int] = (0, 0)
    status: Status = NO_STATUS
    visibility: PresenceVisibility = PresenceVisibility.EVERYONE
    blocked: frozenset[UserId] = frozenset()
    conversations: frozenset[ConversationId] = frozenset()

    def share(self, activity: Activity, now_ms: int) -> Share | None:
        """Returns what a node with a session of this user tells of them; None: it tells of no session."""
        if self.status.hides(now_ms):
            return None
        is_hidden = self.visibility is PresenceVisibility.NOBODY
        return Share(activity=activity, status=self.status.at(now_ms), position=self.position, is_hidden=is_hidden)


def may_see(watcher_id: UserId, watcher: UserFacts, target_id: UserId, target: UserFacts) -> bool:
    """Tells whether a user may know another one's presence: what both show to each other, so who hides sees nobody."""
    if watcher_id == target_id:
        return True
    if target_id in watcher.blocked or watcher_id in target.blocked:
        return False
    shown_to = (watcher.visibility, target.visibility)
    if PresenceVisibility.NOBODY in shown_to:
        return False
    return PresenceVisibility.CONTACTS not in shown_to or not watcher.conversations.isdisjoint(target.conversations)


# ---- flapping


@dataclass(slots=True)
class ChangeBudget:
    """How many changes of one user may still be told: 6 at once, one a minute beyond. Times are monotonic seconds.

    That somebody went offline is always told, and counts: whoever comes and goes is shown as gone, never as there.
    """

    left: float = CHANGES_AT_ONCE
    at_s: float = 0.0

    def take(self, before: Shown, after: Shown, now_s: float) -> float:
        """Takes one change; returns 0, or for how many seconds it is not to be told."""
        self.left = min(float(CHANGES_AT_ONCE), self.left + (now_s - self.at_s) / CHANGE_EVERY_S)
        self.at_s = now_s
        has_gone = after.state is PresenceState.OFFLINE and before.state is not PresenceState.OFFLINE
        if self.left < 1 and not has_gone:
            return (1 - self.left) * CHANGE_EVERY_S
        self.left -= 1
        return 0.0
