"""Resume tokens: how far the log was told to a client, so that its next stream names only the topics that moved since.

Theory of operation. A token says: up to this position of the user's own topic, and up to this sequence of each shard,
everything was told on the stream that gave it. Its conversations are those that the own topic at that position names. A
sequence is claimed only when it is proved: the node compares heads with the log every 30 s, and a topic that has come
to a head which was read after the shard was at sequence S has every record up to S. So a token is some 30 s behind the
stream, and what moved meanwhile is named once more.

Law: a token only saves words. What it does not prove is named, as without one: topics that moved, memberships that are
newer, everything when the token is of another sign-in, epoch or number of shards, damaged, made up, or too old. Whether
a client has everything is decided by its own positions, and Sync.
"""

import base64
import hashlib
import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from hubbub_server.app.active_topic import ActiveTopic
from hubbub_server.app.authenticate import Caller
from hubbub_server.app.topic_hub import TopicHub
from hubbub_server.domain.user_topic import Membership, UserTopicState
from hubbub_server.ports.clock import Clock

if TYPE_CHECKING:
    from hubbub_server.domain.ids import TopicId

TOKEN_MAX_AGE_S: Final = 7 * 24 * 3600
"""As long as the log keeps records for sure."""
_VERSION: Final = b"\x01"
_MAC_BYTES: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """How far a client was told: its own topic up to a position, each shard of an epoch up to a sequence."""

    own_position: int
    shards: tuple[tuple[int, int], ...]
    """(epoch, sequence) of each shard; sequence 0: nothing of it was told, or proved."""

    def has(self, topic: ActiveTopic, membership: Membership) -> bool:
        """Tells whether a client that has come so far knows this conversation as it is now."""
        epoch, sequence = self.shards[topic.shard]
        is_known = membership.user_position <= self.own_position
        return is_known and topic.state.epoch == epoch and topic.moved_at <= sequence


class ResumeTokens:
    """Makes and reads tokens: signed, each for one sign-in of one user."""

    def __init__(self, key: bytes, clock: Clock) -> None:
        """`key` is the same on all nodes."""
        self._key = hmac.digest(key, b"hubbub resume token", hashlib.sha256)
        self._clock = clock

    def make(self, caller: Caller, reached: Reached) -> str:
        """Returns the token of what was told to `caller`."""
        shards = (f"{epoch}.{sequence}" for epoch, sequence in reached.shards)
        text = " ".join([str(self._now_s()), str(reached.own_position), *shards]).encode()
        return base64.urlsafe_b64encode(_VERSION + self._mac(caller, text) + text).decode().rstrip("=")

    def read(self, caller: Caller, token: str) -> Reached | None:
        """Returns what a token says; None when it says nothing about `caller` (any more)."""
        try:
            raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        except ValueError:
            return None
        mac, text = raw[1 : 1 + _MAC_BYTES], raw[1 + _MAC_BYTES :]
        if raw[:1] != _VERSION or not hmac.compare_digest(mac, self._mac(caller, text)):
            return None
        made_s, own_position, *shards = text.decode().split(" ")
        if self._now_s() - int(made_s) > TOKEN_MAX_AGE_S:
            return None
        pairs = (shard.split(".") for shard in shards)
        return Reached(
            own_position=int(own_position), shards=tuple((int(epoch), int(sequence)) for epoch, sequence in pairs)
        )

    def _mac(self, caller: Caller, text: bytes) -> bytes:
        scope = f"{caller.user_id} {caller.device_session_id} ".encode()
        return hmac.digest(self._key, _VERSION + scope + text, hashlib.sha256)[:_MAC_BYTES]

    def _now_s(self) -> int:
        return self._clock.now_ms() // 1000


class StreamResume:
    """The tokens of one stream: what its client gave, and what it is given."""

    __slots__ = (
        "_caller",
        "_hub",
        "_since",
        "_tokens",
        "topics",
    )

    def __init__(self, tokens: ResumeTokens, hub: TopicHub, caller: Caller) -> None:
        """Knows nothing until `take_up`."""
        self._tokens = tokens
        self._hub = hub
        self._caller = caller
        self._since: Reached | None = None
        self.topics: dict[TopicId, ActiveTopic] = {}
        """What the stream covers; it puts them in."""

    @property
    def is_resumed(self) -> bool:
        """Tells whether the client gave a token that counts."""
        return self._since is not None

    def take_up(self, token: str) -> bool:
        """Takes the token of Hello; tells whether it counts: it is the caller's, and of the log as it is now."""
        since = self._tokens.read(self._caller, token) if token else None
        if since is not None and [epoch for epoch, _ in since.shards] == self._epochs():
            self._since = since
        return self.is_resumed

    def has(self, topic: ActiveTopic, membership: Membership) -> bool:
        """Tells whether the client knows this conversation as it is now, so that it need not be named."""
        return self._since is not None and self._since.has(topic, membership)

    def token(self) -> str:
        """Returns the token of a stream that has told all it heard; "": it does not cover all its topics now."""
        reached = self._reached()
        return "" if reached is None else self._tokens.make(self._caller, reached)

    def _reached(self) -> Reached | None:
        own = self.topics.get(self._caller.user_id)
        if own is None or not isinstance(own.state, UserTopicState):
            return None
        epochs = self._epochs()
        sequences: list[int | None] = [None] * len(epochs)
        joined = (self.topics.get(each.conversation_id) for each in own.state.memberships.values() if each.joined)
        for topic in (own, *joined):
            if topic is None or topic.state.epoch != epochs[topic.shard]:
                return None
            known = sequences[topic.shard]
            sequences[topic.shard] = topic.covered if known is None else min(known, topic.covered)
        return Reached(
            own_position=own.state.position,
            shards=tuple(zip(epochs, (sequence or 0 for sequence in sequences), strict=True)),
        )

    def _epochs(self) -> list[int]:
        return [self._hub.epoch(shard) for shard in range(self._hub.shards)]
