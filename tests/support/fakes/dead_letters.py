"""Dead letters in memory, of one log for all workers. Switches: `is_unavailable`, `max_body_bytes`."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from hubbub_server.domain.errors import LogUnavailable
from hubbub_server.domain.ids import TopicId
from hubbub_server.ports.dead_letters import DeadTopic, Letter, LettersMoved, LetterTooLarge, place_of
from hubbub_server.ports.record_consumer import AnyRecord, UnreadableRecord, topic_of


class FakeDeadLetters:
    """DeadLetters. `letters` are all that were not removed, by (role, shard, topic); `on_add` is called before one."""

    def __init__(self) -> None:
        self.is_unavailable = False
        self.max_body_bytes = 1 << 20
        self.letters: dict[tuple[str, int, TopicId], list[Letter]] = {}
        self.on_add: Callable[[], None] = lambda: None
        self._numbers = 0

    async def topics(self, *, role: str, shard: int) -> Mapping[TopicId, DeadTopic]:
        await self._travel()
        return {
            key[2]: DeadTopic(
                first_place=place_of(found[0].record),
                last_place=place_of(found[-1].record),
                last_number=found[-1].number,
            )
            for key, found in self.letters.items()
            if key[:2] == (role, shard)
        }

    async def add(self, record: AnyRecord, *, role: str, shard: int, reason: str, after: int) -> int:
        await self._travel()
        if len(record.body) > self.max_body_bytes:
            raise LetterTooLarge(f"{len(record.body)} bytes")
        self.on_add()
        key = (role, shard, topic_of(record))
        found = self.letters.get(key, [])
        if (found[-1].number if found else 0) != after:
            raise LettersMoved(f"the letters do not end with {after}")
        self._numbers += 1
        if isinstance(record, UnreadableRecord):
            kept = {name: value for name, value in record.headers.items() if not name.startswith("Nats-")}
            record = replace(record, headers=kept)
        self.letters[key] = [*found, Letter(number=self._numbers, record=record, reason=reason)]
        return self._numbers

    async def read(self, topic_id: TopicId, *, role: str, shard: int, max_letters: int) -> Sequence[Letter]:
        await self._travel()
        return self.letters.get((role, shard, topic_id), [])[:max_letters]

    async def remove(self, topic_id: TopicId, *, role: str, shard: int, up_to: int) -> None:
        await self._travel()
        key = (role, shard, topic_id)
        left = [letter for letter in self.letters.pop(key, []) if letter.number > up_to]
        if left:
            self.letters[key] = left

    async def first_sequence(self, *, role: str, shard: int) -> int | None:
        await self._travel()
        ends = (found[0] for key, found in self.letters.items() if key[:2] == (role, shard))
        first = min(ends, key=_number, default=None)
        return first.record.sequence if first else None

    async def _travel(self) -> None:
        await asyncio.sleep(0)
        if self.is_unavailable:
            raise LogUnavailable("not connected")


def _number(letter: Letter) -> int:
    return letter.number
