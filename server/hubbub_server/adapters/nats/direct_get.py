"""Reads the newest messages of many subjects, with proof that none of them is older than what the leader had before."""

from collections.abc import Sequence
from typing import Any

from nats.aio.msg import Msg

from hubbub_server.adapters.nats.connection import NatsConnection
from hubbub_server.domain.errors import LogUnavailable

MAX_SUBJECTS = 1000
"""Of one request; the server refuses more than 1,024."""
MAX_BYTES = 4 << 20
"""Of one answer."""


class Stale(LogUnavailable):
    """A replica that lags answered, or an answer has a hole."""


async def read_latest(connection: NatsConnection, stream: str, subjects: Sequence[str], *, reached: int) -> list[Msg]:
    """Reads the newest message of each subject once; subjects without one are left out.

    Args:
        connection: An open connection.
        stream: The stream, with `allow_direct`.
        subjects: At most MAX_SUBJECTS.
        reached: What the leader said is the last sequence of the stream, before this call.

    Raises:
        Stale: the answer may lack what is older than `reached`. An answer without any message proves nothing.
        LogUnavailable: no answer came.
    """
    found: list[Msg] = []
    query: dict[str, Any] = {"multi_last": list(subjects), "max_bytes": MAX_BYTES}
    while True:
        messages, end = await connection.collect(f"DIRECT.GET.{stream}", query)
        if int(end.get("Nats-UpTo-Sequence", "0")) < reached:
            raise Stale("a replica lags")
        found += messages
        if int(end.get("Nats-Num-Pending", "0")) == 0:
            return found
        if not messages:
            raise Stale("an answer without an end")
        # Answers come in order of sequence: what is still missing is newer than all we have.
        query["seq"] = int(end["Nats-Last-Sequence"]) + 1
