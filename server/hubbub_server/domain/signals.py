"""Signals: passing news about a member of a conversation, worth knowing only now."""

from dataclasses import dataclass

from hubbub_server.domain.ids import ConversationId, UserId


@dataclass(frozen=True, slots=True, kw_only=True)
class Typing:
    """The user makes a message, or stopped. `making` is the number of the contract's TypingKind, known here or not."""

    making: int
    active: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadMarker:
    """The user has read up to a message, inclusive."""

    message_number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveredMarker:
    """A device of the user has received up to a message, inclusive."""

    message_number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadFloor:
    """All members have read up to a message, inclusive. About nobody: its signal has no user."""

    message_number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownSignal:
    """Of a newer version: passed on as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """One signal. Members other than the user get it. A read floor has no user: all members do."""

    conversation_id: ConversationId
    user_id: UserId | None
    kind: Typing | ReadMarker | DeliveredMarker | ReadFloor | UnknownSignal
