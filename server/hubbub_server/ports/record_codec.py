"""Turns events into the bytes of a record and back. What was committed is, byte for byte, what clients receive."""

from collections.abc import Sequence
from typing import Protocol

from hubbub_server.domain.events import Event
from hubbub_server.domain.frozen import dataclass


class RecordUndecodable(ValueError):
    """These bytes are no record. Poison: never a reason to skip it silently."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedEvent:
    """One event of a record.

    `framed` are its bytes as they stand in the record body: framed events joined by concatenation are a body again.
    `message_body` are the bytes of the message that a MessageSent carries, else b"".
    """

    event: Event
    framed: bytes
    message_body: bytes


class RecordCodec(Protocol):
    """Encodes and decodes record bodies."""

    def encode(self, event: Event) -> bytes:
        """Returns the framed bytes of one event; a body is their concatenation. Deterministic."""

    def decode(self, body: bytes) -> Sequence[DecodedEvent]:
        """Splits and decodes a body; kinds and contents of newer versions come out as UnknownKind and UnknownContent.

        Raises:
            RecordUndecodable: the bytes are no record.
        """
