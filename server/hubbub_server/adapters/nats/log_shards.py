"""LogShards on JetStream."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from hubbub_server.adapters.nats.connection import RETRY_FOR_S, NatsConnection
from hubbub_server.adapters.nats.direct_get import MAX_BYTES, Stale
from hubbub_server.adapters.nats.errors import map_errors
from hubbub_server.adapters.nats.log_reader import read_message, read_stored
from hubbub_server.adapters.nats.records import stream_name
from hubbub_server.adapters.nats.streams import (
    get_message,
    read_stream_info,
    read_whole_stream,
    write_epoch,
    write_trimmed,
    write_whole,
)
from hubbub_server.domain.errors import LogUnavailable
from hubbub_server.ports.log_shards import ShardBounds
from hubbub_server.ports.topic_log import LogRecord

_DIRECT_TRIES = 3
_RECORDS_A_REQUEST = 1_000


class NatsLogShards:
    """LogShards over an open connection whose streams exist."""

    def __init__(self, connection: NatsConnection) -> None:
        """Takes the connection."""
        self._connection = connection

    async def read_bounds(self, shard: int) -> ShardBounds:
        """Reads what a shard holds now."""
        facts = await self._connection.retry(partial(read_whole_stream, self._connection, shard))
        return ShardBounds(
            epoch=facts.epoch,
            first_sequence=facts.first_sequence,
            last_sequence=facts.last_sequence,
            lost_sequence=facts.lost_sequence,
        )

    async def read_records(self, shard: int, *, after_sequence: int, up_to_sequence: int) -> Sequence[LogRecord]:
        """Reads records of all topics in order, none left out."""
        with map_errors():
            async with asyncio.timeout(RETRY_FOR_S):
                for _ in range(_DIRECT_TRIES):
                    try:
                        return await self._read_directly(shard, after_sequence, up_to_sequence)
                    except LogUnavailable:
                        continue
                record = await self._get(shard, {"seq": after_sequence + 1, "next_by_subj": ">"})
        if record is None or record.sequence > up_to_sequence:
            return []
        return [record]

    async def _read_directly(self, shard: int, after_sequence: int, up_to_sequence: int) -> list[LogRecord]:
        """Reads without holes in the sequences; what makes one (a record that was deleted) is the leader's to say."""
        if after_sequence >= up_to_sequence:
            return []
        query = {"seq": after_sequence + 1, "batch": _RECORDS_A_REQUEST, "max_bytes": MAX_BYTES}
        messages, _ = await self._connection.collect(f"DIRECT.GET.{stream_name(shard)}", query)
        records: list[LogRecord] = []
        for message in messages:
            record = read_message(message)
            if record.sequence != after_sequence + len(records) + 1 or record.sequence > up_to_sequence:
                break
            records.append(record)
        if not records:
            raise Stale("a replica lags, or a record is not there")
        return records

    async def find_younger(self, shard: int, *, age_s: float) -> int:
        """Finds the first record that the servers stored less than `age_s` ago, by their own clock."""
        name = stream_name(shard)
        content = await self._connection.retry(partial(read_stream_info, self._connection, name))
        oldest = _read_time(content["ts"]) - timedelta(seconds=age_s)
        query = {"start_time": oldest.isoformat().replace("+00:00", "Z"), "next_by_subj": ">"}
        record = await self._get(shard, query)
        return record.sequence if record else int(content["state"]["last_seq"]) + 1

    async def trim(self, shard: int, *, below_sequence: int) -> None:
        """Notes how far, then purges by sequence, never by subject."""
        await write_trimmed(self._connection, shard, below_sequence)
        name = stream_name(shard)

        async def purge() -> None:
            await self._connection.call(f"STREAM.PURGE.{name}", {"seq": below_sequence})

        await self._connection.retry(purge)

    async def accept_losses(self, shard: int) -> None:
        """Notes in the stream's metadata from where on it is whole."""
        await write_whole(self._connection, shard)

    async def set_epoch(self, shard: int, epoch: int) -> None:
        """Writes the epoch into the stream's metadata."""
        await write_epoch(self._connection, stream_name(shard), epoch)

    async def _get(self, shard: int, query: dict[str, Any]) -> LogRecord | None:
        message = await self._connection.retry(partial(get_message, self._connection, stream_name(shard), query))
        return read_stored(message) if message else None


def _read_time(text: str) -> datetime:
    """Reads RFC 3339 with any number of decimals."""
    whole, _, decimals = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{whole}.{decimals[:6].ljust(6, '0')}").replace(tzinfo=UTC)
