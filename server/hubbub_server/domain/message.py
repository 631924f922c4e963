"""Messages and what they say."""

import hashlib

from hubbub_server.domain.errors import InvalidField
from hubbub_server.domain.frozen import dataclass
from hubbub_server.domain.ids import ClientMessageId, UserId
from hubbub_server.domain.limits import check_text


@dataclass(frozen=True, slots=True, kw_only=True)
class TextContent:
    """Words: 1 to 8,000 code points."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownContent:
    """Content of a kind that this version does not know; only its bytes travel on. Never accepted from a client."""


Content = TextContent | UnknownContent


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message as it was sent. `counted_number` is the number of messages up to it that count as unread for others."""

    message_number: int
    counted_number: int
    sender_id: UserId
    client_message_id: ClientMessageId
    content: Content
    client_time_ms: int | None = None


def check_content(field: str, content: Content) -> None:
    """Checks what a client wants to send. Raises InvalidField."""
    match content:
        case TextContent(text=text):
            check_text(f"{field}.text.text", text)
        case UnknownContent():
            raise InvalidField(field, "one of the known kinds of content")


def content_hash(content: Content) -> str:
    """Returns a short digest that tells whether a repeated id carries the same content. Part of stored records."""
    match content:
        case TextContent(text=text):
            return request_hash("text", text)
        case UnknownContent():
            return ""


def request_hash(*parts: str) -> str:
    """Returns 128 bits of SHA-256 over the parts in hex; lengths are hashed too, so parts cannot flow together."""
    encoded = [part.encode() for part in parts]
    framed = b"".join([len(part).to_bytes(8, "big") + part for part in encoded])
    return hashlib.sha256(framed).hexdigest()[:32]
