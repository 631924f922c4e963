"""Places in the logs of topics."""

from hubbub_server.domain.frozen import dataclass
from hubbub_server.domain.ids import TopicId


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """A place in one topic's log: everything up to and including `position`. Comparable only within one epoch."""

    topic_id: TopicId
    epoch: int
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicHead:
    """The newest event of a topic and what it has counted so far. Position 0: no event yet."""

    cursor: Cursor
    last_message_number: int = 0
    last_counted_number: int = 0
