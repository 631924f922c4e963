"""The shards of a FakeLogServer for those who look after them, reached over the link of one node."""

from collections.abc import Sequence

from hubbub_server.ports.log_shards import ShardBounds
from hubbub_server.ports.topic_log import LogRecord
from tests.support.fakes.topic_log import FakeLogServer, FakeTopicLog

_RECORDS_A_CALL = 7


class FakeLogShards:
    """LogShards of one node."""

    def __init__(self, server: FakeLogServer, log: FakeTopicLog) -> None:
        self._server = server
        self._log = log

    async def read_bounds(self, shard: int) -> ShardBounds:
        return await self._log.request(lambda: self._bounds(shard))

    def _bounds(self, shard: int) -> ShardBounds:
        records, last = self._server.records[shard], self._server.last_sequences[shard]
        first = records[0].sequence if records else last + 1
        there = {record.sequence for record in records}
        lost = (sequence for sequence in range(self._server.whole_from[shard], last + 1) if sequence not in there)
        return ShardBounds(
            epoch=self._server.epochs[shard],
            first_sequence=first,
            last_sequence=last,
            lost_sequence=next(lost, None),
        )

    async def read_records(self, shard: int, *, after_sequence: int, up_to_sequence: int) -> Sequence[LogRecord]:
        return await self._log.request(
            lambda: [r for r in self._server.records[shard] if after_sequence < r.sequence <= up_to_sequence][
                :_RECORDS_A_CALL
            ]
        )

    async def find_younger(self, shard: int, *, age_s: float) -> int:
        def find() -> int:
            oldest_s = self._server.clock_s() - age_s
            times_s = self._server.append_times_s
            young = (r.sequence for r in self._server.records[shard] if times_s[shard, r.sequence] > oldest_s)
            return next(young, self._server.last_sequences[shard] + 1)

        return await self._log.request(find)

    async def trim(self, shard: int, *, below_sequence: int) -> None:
        await self._log.request(lambda: self._server.trim(shard, below_sequence=below_sequence))

    async def accept_losses(self, shard: int) -> None:
        def accept() -> None:
            bounds = self._bounds(shard)
            is_whole = len(self._server.records[shard]) == bounds.last_sequence + 1 - bounds.first_sequence
            self._server.whole_from[shard] = bounds.first_sequence if is_whole else bounds.last_sequence + 1

        await self._log.request(accept)

    async def set_epoch(self, shard: int, epoch: int) -> None:
        await self._log.request(lambda: self._server.set_epoch(shard, epoch))
