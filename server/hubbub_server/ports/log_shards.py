"""The log shard by shard, topics side by side: for those who trim it, guard it and compare it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from hubbub_server.ports.topic_log import LogRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardBounds:
    """What a shard's log holds: the first sequence is one more than the last when it holds nothing.

    `lost_sequence` is the first that has no record though it was given to one that nobody trimmed; None: there is none.
    """

    epoch: int
    first_sequence: int
    last_sequence: int
    lost_sequence: int | None = None


class LogShards(Protocol):
    """Looks after the shards of the log. Every method is answered by the leader, and raises LogUnavailable."""

    async def read_bounds(self, shard: int) -> ShardBounds:
        """Reads what a shard holds now."""

    async def read_records(self, shard: int, *, after_sequence: int, up_to_sequence: int) -> Sequence[LogRecord]:
        """Reads records of all topics in order: `after_sequence` < sequence <= `up_to_sequence`, none left out.

        `up_to_sequence` is at most the last one. Ends early, after at least one record if there is any; the caller
        goes on after the last one.
        """

    async def find_younger(self, shard: int, *, age_s: float) -> int:
        """Finds the first record that the log got less than `age_s` ago, by the clock of the log.

        Returns its sequence; one more than the last sequence when there is none.
        """

    async def trim(self, shard: int, *, below_sequence: int) -> None:
        """Removes all records with a smaller sequence, for ever. Idempotent; sequences go on as before.

        How far was trimmed is noted first: what is gone beyond that was lost.
        """

    async def accept_losses(self, shard: int) -> None:
        """Has the log taken for whole as it is now: `lost_sequence` is None until more is lost. Idempotent."""

    async def set_epoch(self, shard: int, epoch: int) -> None:
        """Begins another epoch: what nodes commit from when they notice (30 s) carries it. Never goes back to one."""
