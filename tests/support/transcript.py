"""What somebody was told, as bytes that can be compared with those of another run: ids and times by their order."""

from typing import Any, Final

from google.protobuf.message import Message

_NAMED: Final = frozenset({"session_id", "resume_token"})
"""Made anew for every stream; streams that open at once hear theirs in any order, so each place counts its own."""
_TIMED: Final = frozenset({"last_seen_time"})
"""By the clock of the registry, which no test moves."""


class Transcript:
    """Everything that one user was told, by where: each entry is the bytes of a message.

    Only ids of streams and times of the registry are normalised, to the place at which each value came up first: so
    two of them that should be the same are, and one that moves on is seen.
    """

    def __init__(self) -> None:
        self.entries: list[tuple[str, bytes]] = []
        self._seen: dict[str, dict[Any, int]] = {}

    def note(self, where: str, message: Message) -> None:
        """Adds a message."""
        copy = type(message)()
        copy.CopyFrom(message)
        self._normalise(where, copy)
        self.entries.append((where, copy.SerializeToString(deterministic=True)))

    def of(self, where: str) -> list[bytes]:
        """Returns what was told at one place, in order."""
        return [told for place, told in self.entries if place == where]

    def _normalise(self, where: str, message: Message) -> None:
        for field, value in message.ListFields():
            if field.name in _NAMED:
                setattr(message, field.name, f"{field.name} {self._ordinal(f'{field.name} {where}', value)}")
            elif field.name in _TIMED:
                ordinal = self._ordinal(field.name, value.ToMilliseconds())
                value.FromMilliseconds(ordinal)
            elif field.full_name == "hubbub.presence.v1.Presence.version":
                message.ClearField("version")  # a time of the registry, and of nothing that happened
            elif field.message_type is not None:
                for each in value if field.is_repeated else (value,):
                    self._normalise(where, each)

    def _ordinal(self, name: str, value: Any) -> int:
        seen = self._seen.setdefault(name, {})
        return seen.setdefault(value, len(seen) + 1)
