"""Messages and what they say."""

import hashlib
import re
from collections.abc import Container
from dataclasses import replace
from enum import Enum
from typing import Final, assert_never

from hubbub_server.domain.errors import InvalidField
from hubbub_server.domain.frozen import dataclass
from hubbub_server.domain.ids import ClientMessageId, UserId, is_user_id
from hubbub_server.domain.limits import ENTITIES_MAX, LINK_MAX_BYTES, LINKS_MAX_BYTES, check_text, has_control

_LANGUAGE: Final = re.compile(r"[A-Za-z0-9+#_.-]{0,32}")
_URL: Final = re.compile(r"(?:https?://|mailto:)\S+", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class UserMention:
    """A user is meant."""

    user_id: UserId


class BroadcastAudience(Enum):
    """For whom a broadcast mention is."""

    ALL = "all"
    HERE = "here"


@dataclass(frozen=True, slots=True, kw_only=True)
class BroadcastMention:
    """All members are meant."""

    audience: BroadcastAudience


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """To be shown as it is."""

    block: bool = False
    language: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A link."""

    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownEntity:
    """A sort that this version does not know. Never accepted from a client."""


EntityKind = UserMention | BroadcastMention | Code | Link | UnknownEntity


@dataclass(frozen=True, slots=True, kw_only=True)
class TextEntity:
    """What `length` code points of the text from `start` on are."""

    start: int
    length: int
    kind: EntityKind


@dataclass(frozen=True, slots=True, kw_only=True)
class TextContent:
    """Words: 1 to 8,000 code points, and what parts of them are."""

    text: str
    entities: tuple[TextEntity, ...] = ()


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Mentions:
    """Whom a message mentions, its sender left out. With `everybody` it names nobody beside."""

    user_ids: frozenset[UserId] = frozenset()
    everybody: bool = False

    def __bool__(self) -> bool:
        """Whether it mentions anybody."""
        return self.everybody or bool(self.user_ids)


_NOBODY: Final = Mentions()


def mentions_of(message: Message) -> Mentions:
    """Returns whom a message mentions."""
    content = message.content
    if not isinstance(content, TextContent) or not content.entities:
        return _NOBODY
    if any(isinstance(each.kind, BroadcastMention) for each in content.entities):
        return Mentions(everybody=True)
    named = {each.kind.user_id for each in content.entities if isinstance(each.kind, UserMention)}
    return Mentions(user_ids=frozenset(named - {message.sender_id}))


def check_content(field: str, content: Content) -> None:
    """Checks what a client wants to send. Raises InvalidField."""
    match content:
        case TextContent(text=text, entities=entities):
            check_text(f"{field}.text.text", text)
            _check_entities(f"{field}.text.entities", text, entities)
        case UnknownContent():
            raise InvalidField(field, "one of the known kinds of content")


def _check_entities(path: str, text: str, entities: tuple[TextEntity, ...]) -> None:
    if len(entities) > ENTITIES_MAX:
        raise InvalidField(path, f"at most {ENTITIES_MAX}")
    end = 0
    for index, entity in enumerate(entities):
        if entity.start < end:
            raise InvalidField(f"{path}[{index}].start", "0 or more, in order of start, not overlapping")
        end = entity.start + entity.length
        if entity.length < 1 or end > len(text):
            raise InvalidField(f"{path}[{index}].length", "1 or more code points inside the text")
        _check_kind(f"{path}[{index}]", entity.kind)
    links_bytes = sum(len(entity.kind.url.encode()) for entity in entities if isinstance(entity.kind, Link))
    if links_bytes > LINKS_MAX_BYTES:
        raise InvalidField(path, f"links of at most {LINKS_MAX_BYTES} bytes together")


def _check_kind(path: str, kind: EntityKind) -> None:
    match kind:
        case UserMention(user_id=user_id):
            if not is_user_id(user_id):
                raise InvalidField(f"{path}.user_mention.user_id", "a user id")
        case BroadcastMention():
            pass
        case Code(block=block, language=language):
            if not _LANGUAGE.fullmatch(language) or (language and not block):
                raise InvalidField(f"{path}.code.language", "at most 32 of [A-Za-z0-9+#_.-], of a block")
        case Link(url=url):
            if not _URL.fullmatch(url) or has_control(url) or len(url.encode()) > LINK_MAX_BYTES:
                rule = f"http, https or mailto, at most {LINK_MAX_BYTES} bytes, no white space, controls or directions"
                raise InvalidField(f"{path}.link.url", rule)
        case UnknownEntity():
            raise InvalidField(f"{path}.kind", "one of the known sorts")
        case _:
            assert_never(kind)


def is_broadcast(content: Content) -> bool:
    """Tells whether all members are meant."""
    return isinstance(content, TextContent) and any(isinstance(e.kind, BroadcastMention) for e in content.entities)


def only_mentions_of(content: Content, user_ids: Container[UserId]) -> Content:
    """Returns the content with mentions of other users than these as plain words."""
    if not isinstance(content, TextContent) or not content.entities:
        return content
    kept = (e for e in content.entities if not isinstance(e.kind, UserMention) or e.kind.user_id in user_ids)
    return replace(content, entities=tuple(kept))


def content_hash(content: Content) -> str:
    """Returns a short digest that tells whether a repeated id carries the same content. Part of stored records."""
    match content:
        case TextContent(text=text, entities=entities):
            return request_hash("text", text, *map(_entity_text, entities))
        case UnknownContent():
            return ""


def _entity_text(entity: TextEntity) -> str:
    match entity.kind:
        case UserMention(user_id=user_id):
            said = f"user {user_id}"
        case BroadcastMention(audience=audience):
            said = f"broadcast {audience.value}"
        case Code(block=block, language=language):
            said = f"code {block:d} {language}"
        case Link(url=url):
            said = f"link {url}"
        case UnknownEntity():
            said = ""
        case _:
            assert_never(entity.kind)
    return f"{entity.start} {entity.length} {said}"


def request_hash(*parts: str) -> str:
    """Returns 128 bits of SHA-256 over the parts in hex; lengths are hashed too, so parts cannot flow together."""
    encoded = [part.encode() for part in parts]
    framed = b"".join([len(part).to_bytes(8, "big") + part for part in encoded])
    return hashlib.sha256(framed).hexdigest()[:32]
