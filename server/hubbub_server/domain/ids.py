"""Identifiers: their forms, where they come from, and the shard of a topic.

Ids of ours are `[a-z0-9]`, at most 32 characters, so they are safe as NATS subject tokens. Ids made by clients
(`client_message_id`, `request_id`) are UUIDs in canonical form; their time is used only to skip a store look-up.
"""

import base64
import hashlib
import hmac
import re
import zlib
from functools import lru_cache
from typing import NewType, TypeGuard

TopicId = NewType("TopicId", str)
ConversationId = NewType("ConversationId", TopicId)
UserId = NewType("UserId", TopicId)
DeviceSessionId = NewType("DeviceSessionId", str)
ClientMessageId = NewType("ClientMessageId", str)

_ID_MAX_CHARACTERS = 32
_TOPIC_ID = re.compile(r"[cu][a-z0-9]{1,31}\Z")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z")


def is_conversation_id(text: str) -> TypeGuard[ConversationId]:
    """Tells whether `text` has the form of a conversation id; says nothing about its existence."""
    return text[:1] == "c" and len(text) <= _ID_MAX_CHARACTERS and _has_form(text)


def is_user_id(text: str) -> TypeGuard[UserId]:
    """Tells whether `text` has the form of a user id; says nothing about its existence."""
    return text[:1] == "u" and len(text) <= _ID_MAX_CHARACTERS and _has_form(text)


@lru_cache(maxsize=4096)
def _has_form(text: str) -> bool:
    return _TOPIC_ID.match(text) is not None


def canonical_uuid(text: str) -> ClientMessageId | None:
    """Returns the canonical lower-case form of a UUID (RFC 9562 section 4), or None if `text` is none."""
    lowered = text.lower()
    return ClientMessageId(lowered) if _UUID.match(lowered) else None


def uuid7_time_ms(uuid: str) -> int | None:
    """Returns the Unix milliseconds in a canonical UUIDv7 (RFC 9562 section 5.7), None for other versions."""
    if uuid[14] != "7":
        return None
    return int(uuid[0:8] + uuid[9:13], 16)


def shard_of(topic_id: TopicId, shards: int) -> int:
    """Returns the log shard of a topic. Fixed for the life of a cluster: stored subjects depend on it."""
    return zlib.crc32(topic_id.encode()) % shards


def direct_conversation_id(key: bytes, first: UserId, second: UserId) -> ConversationId:
    """Derives the id of the one direct conversation of a pair; keyed, so that a stranger cannot compute it."""
    low, high = sorted((first, second))
    return ConversationId(TopicId("c" + _keyed_id(key, "direct", low, high)))


def group_conversation_id(key: bytes, creator_id: UserId, request_id: str) -> ConversationId:
    """Derives the id of the group that `creator_id` makes with `request_id`, so that a retry names the same topic."""
    return ConversationId(TopicId("c" + _keyed_id(key, "group", creator_id, request_id)))


def _keyed_id(key: bytes, *parts: str) -> str:
    digest = hmac.new(key, "\0".join(parts).encode(), hashlib.sha256).digest()
    return base64.b32encode(digest[:16]).decode().rstrip("=").lower()
