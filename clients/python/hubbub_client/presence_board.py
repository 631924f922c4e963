"""Who is there of those whom the application watches, sans-IO."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from hubbub.presence.v1 import presence_service_pb2 as presence_pb

from hubbub_client import events
from hubbub_client.presences import Activity, Presence, PresenceState
from hubbub_client.wire_presence import read_presence

WATCHED_MAX: Final = 500


class PresenceBoard:
    """Keeps the watched set and what is known of it. `activity` is what the application says of its use."""

    def __init__(self) -> None:
        self._known: dict[str, Presence] = {}  # has exactly the watched users
        self._told: dict[str, Presence] = {}
        self._changed: dict[str, None] = {}  # an ordered set
        self.activity: Activity | None = None

    @property
    def watched(self) -> list[str]:
        """The watched users."""
        return list(self._known)

    @property
    def is_needed(self) -> bool:
        """Tells whether a stream is worth having."""
        return bool(self._known) or self.activity is not None

    def watch(self, user_ids: Iterable[str]) -> None:
        """Adds users.

        Raises:
            ValueError: that would be more than 500, or one of them is empty.
        """
        added = [user_id for user_id in dict.fromkeys(user_ids) if user_id not in self._known]
        if "" in added or len(self._known) + len(added) > WATCHED_MAX:
            raise ValueError(f"at most {WATCHED_MAX} users are watched, none of them empty")
        for user_id in added:
            self._known[user_id] = self._told[user_id] = Presence(user_id=user_id, state=PresenceState.UNKNOWN)

    def unwatch(self, user_ids: Iterable[str]) -> None:
        """Removes users; nothing more is told of them."""
        for user_id in user_ids:
            for each in (self._known, self._told, self._changed):
                each.pop(user_id, None)

    def of(self, user_id: str) -> Presence:
        """Returns what is known of a user; UNKNOWN of one who is not watched."""
        return self._known.get(user_id) or Presence(user_id=user_id, state=PresenceState.UNKNOWN)

    def receive(self, update: presence_pb.PresenceUpdate) -> None:
        """Takes a frame of the server: of each user the newest report counts, but a snapshot is the truth."""
        for pb in update.presences:
            before = self._known.get(pb.user_id)
            if before is not None and (update.snapshot or pb.version > before.version):
                self._set(read_presence(pb))

    def lose(self) -> None:
        """Nothing was heard for too long: nothing is known, rather than what was."""
        for presence in list(self._known.values()):
            self._set(Presence(user_id=presence.user_id, state=PresenceState.UNKNOWN))

    def take(self) -> events.PresenceChanged | None:
        """Returns the next change that the application has not been told, None when it knows everything."""
        while self._changed:
            user_id = next(iter(self._changed))
            del self._changed[user_id]
            presence, told = self._known[user_id], self._told[user_id]
            if presence != replace(told, version=presence.version):
                self._told[user_id] = presence
                return events.PresenceChanged(presence=presence)
        return None

    def _set(self, presence: Presence) -> None:
        self._known[presence.user_id] = presence
        self._changed[presence.user_id] = None
