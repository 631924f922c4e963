"""The streams of the topic log and of the states beside it: how they are made, and what they say about themselves.

The *epoch* of a shard is in its stream's metadata. It is written when the stream is made, and again only by
`hubbub log new-epoch`, so a stream that was lost and made anew has another one than every record, row and cursor of
before. The metadata of STATE_k says for which epoch its states are complete: 0 when a shard that had records before
gets a new one.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from hubbub_server.adapters.nats.connection import NatsConnection
from hubbub_server.adapters.nats.errors import ApiRefusal
from hubbub_server.adapters.nats.records import state_stream_name, stream_name
from hubbub_server.domain.errors import LogUnavailable

T = TypeVar("T")

_EPOCH = "hubbub-epoch"
_SHARDS = "hubbub-shards"
_WHOLE_FROM = "hubbub-whole-from"
_RETRY_PAUSE_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamFacts:
    """What a stream says: its epoch, and the sequences of its first and last record.

    The first is one more than the last when there is none: 1 and 0 in a new stream. `lost_sequence` is the first one
    above what was trimmed that has no message, None if each has; only said when the details were asked for.
    """

    epoch: int
    first_sequence: int
    last_sequence: int
    lost_sequence: int | None


async def read_stream(connection: NatsConnection, shard: int) -> StreamFacts:
    """Asks the leader of a shard's log once. Raises LogUnavailable."""
    return _facts(await read_stream_info(connection, stream_name(shard)))


async def read_whole_stream(connection: NatsConnection, shard: int) -> StreamFacts:
    """Asks the leader of a shard's log once, also for what it lost. Raises LogUnavailable."""
    return _facts(await read_stream_info(connection, stream_name(shard), {"deleted_details": True}))


async def read_stream_info(
    connection: NatsConnection, name: str, query: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Asks the leader of a stream once. Raises LogUnavailable."""
    content = await connection.call(f"STREAM.INFO.{name}", query)
    # Around elections others than the leader answer, with what they have. Who answers is not among its own replicas.
    cluster = content.get("cluster") or {}
    others = {replica["name"] for replica in cluster.get("replicas") or ()}
    if others and cluster.get("leader") in others | {None, ""}:
        raise LogUnavailable(f"the leader of {name} did not answer")
    return content


async def get_message(connection: NatsConnection, name: str, query: Mapping[str, Any]) -> dict[str, Any] | None:
    """Asks the leader of a stream once for a message; None when there is no such message. Raises LogUnavailable."""
    try:
        content = await connection.call(f"STREAM.MSG.GET.{name}", query)
    except ApiRefusal as refusal:
        if refusal.is_no_message:
            return None
        raise
    message: dict[str, Any] = content["message"]
    return message


async def read_state_stream(connection: NatsConnection, shard: int) -> StreamFacts:
    """Asks the leader of a shard's states once. Raises LogUnavailable."""
    return _facts(await read_stream_info(connection, state_stream_name(shard)))


async def write_epoch(connection: NatsConnection, name: str, epoch: int) -> None:
    """Gives a stream a higher epoch. Repeats itself for five seconds, then raises LogUnavailable.

    One that has that epoch or a higher one stays as it is: somebody who is late must not take it back.
    """

    def raised(content: Mapping[str, Any]) -> dict[str, str]:
        return {_EPOCH: str(max(epoch, _facts(content).epoch))}

    await connection.retry(partial(_write_metadata, connection, name, raised))


async def write_trimmed(connection: NatsConnection, shard: int, below_sequence: int) -> None:
    """Notes that messages below a sequence may be gone. Repeats itself for five seconds, then raises LogUnavailable."""

    def raised(content: Mapping[str, Any]) -> dict[str, str]:
        return {_WHOLE_FROM: str(max(below_sequence, _whole_from(content)))}

    await connection.retry(partial(_write_metadata, connection, stream_name(shard), raised))


async def write_whole(connection: NatsConnection, shard: int) -> None:
    """Notes that a log is whole as it is. Repeats itself for five seconds, then raises LogUnavailable."""

    def as_it_is(content: Mapping[str, Any]) -> dict[str, str]:
        facts, has_holes = _facts(content), bool(content["state"].get("num_deleted"))
        return {_WHOLE_FROM: str(facts.last_sequence + 1 if has_holes else facts.first_sequence)}

    await connection.retry(partial(_write_metadata, connection, stream_name(shard), as_it_is))


async def _write_metadata(
    connection: NatsConnection, name: str, change: Callable[[Mapping[str, Any]], dict[str, str]]
) -> None:
    """Changes metadata of a stream; two that do it at the same instant may undo each other: look afterwards."""
    content = await read_stream_info(connection, name)
    config = content["config"]
    before = config.get("metadata") or {}
    config["metadata"] = before | change(content)
    if config["metadata"] != before:
        await connection.call(f"STREAM.UPDATE.{name}", config)


def stream_config(name: str, subject: str, *, replicas: int) -> dict[str, Any]:
    """Returns what all our streams have in common: on disk, for any time, refusing when full. It forgets nothing."""
    return {
        "name": name,
        "subjects": [subject],
        "retention": "limits",
        "storage": "file",
        "discard": "new",
        "num_replicas": replicas,
        "max_bytes": -1,
        "max_msgs": -1,
        "max_consumers": -1,
    }


async def ensure_stream(connection: NatsConnection, config: Mapping[str, Any]) -> None:
    """Makes a stream if there is none of that name. Repeats itself for five seconds, then raises LogUnavailable."""
    await connection.retry(partial(_read_or_make, connection, config))


async def ensure_streams(
    connection: NatsConnection,
    *,
    shards: int,
    replicas: int,
    max_bytes: int,
    known_epochs: Mapping[int, int],
    timeout_s: float,
) -> None:
    """Makes the streams of log and states that are missing; those that exist stay as they are.

    Args:
        connection: An open connection.
        shards: How many; fixed for the life of a cluster.
        replicas: Copies of each stream: 1, or 3 in production.
        max_bytes: Size at which a shard refuses appends; -1 for none.
        known_epochs: The newest epoch of each shard that the store has seen. A new log gets one above it and above
            that of the states.
        timeout_s: How long to wait for a cluster that is still starting.

    Raises:
        LogUnavailable: it did not succeed in time.
        ValueError: the streams were made for another number of shards.
    """
    for shard in range(shards):
        known = max(known_epochs.get(shard, 0), await _read_epoch_patiently(connection, shard, timeout_s))
        config = _log_config(shard, shards, replicas, max_bytes, known + 1)
        content = await _patiently(partial(_read_or_make, connection, config), timeout_s)
        made_for = _metadata(content).get(_SHARDS)
        if made_for != str(shards):
            raise ValueError(f"{stream_name(shard)} was made for {made_for} shards, not for {shards}")
        log = _facts(content)
        is_whole = log.epoch == 1 and log.first_sequence == 1
        states = _state_config(shard, replicas, complete_epoch=log.epoch if is_whole else 0)
        await _patiently(partial(_read_or_make, connection, states), timeout_s)


def _log_config(shard: int, shards: int, replicas: int, max_bytes: int, epoch: int) -> dict[str, Any]:
    return stream_config(stream_name(shard), f"log.{shard}.>", replicas=replicas) | {
        "max_bytes": max_bytes,
        "allow_direct": True,
        "republish": {"src": f"log.{shard}.>", "dest": f"live.{shard}.>"},
        "metadata": {_EPOCH: str(epoch), _SHARDS: str(shards)},
    }


def _state_config(shard: int, replicas: int, complete_epoch: int) -> dict[str, Any]:
    return stream_config(state_stream_name(shard), f"state.{shard}.>", replicas=replicas) | {
        "max_msgs_per_subject": 1,
        "allow_direct": True,
        "deny_delete": True,
        "deny_purge": True,
        "metadata": {_EPOCH: str(complete_epoch)},
    }


async def _read_epoch_patiently(connection: NatsConnection, shard: int, timeout_s: float) -> int:
    """Reads the epoch of a shard's states; 0 when there is no such stream."""

    async def read() -> int:
        try:
            return (await read_state_stream(connection, shard)).epoch
        except ApiRefusal as refusal:
            if refusal.is_no_stream:
                return 0
            raise

    return await _patiently(read, timeout_s)


async def _patiently(attempt: Callable[[], Awaitable[T]], timeout_s: float) -> T:
    loop = asyncio.get_running_loop()
    give_up_s = loop.time() + timeout_s
    while True:
        try:
            return await attempt()
        except LogUnavailable:
            if loop.time() > give_up_s:
                raise
        await asyncio.sleep(_RETRY_PAUSE_S)


async def _read_or_make(connection: NatsConnection, config: Mapping[str, Any]) -> dict[str, Any]:
    name = config["name"]
    try:
        return await connection.call(f"STREAM.INFO.{name}")
    except ApiRefusal as refusal:
        if not refusal.is_no_stream:
            raise
    try:
        return await connection.call(f"STREAM.CREATE.{name}", config)
    except ApiRefusal as refusal:
        if not refusal.is_other_stream:
            raise
        # Another process made it meanwhile, perhaps knowing another epoch.
        return await connection.call(f"STREAM.INFO.{name}")


def epoch_of(content: Mapping[str, Any]) -> int:
    """Returns the epoch that a stream's information says. Raises LogUnavailable if it says none."""
    try:
        return int(_metadata(content)[_EPOCH])
    except (KeyError, ValueError) as error:
        raise LogUnavailable(f"{content['config']['name']} has no epoch: it was not made by hubbub") from error


def _facts(content: Mapping[str, Any]) -> StreamFacts:
    state = content["state"]
    first, whole_from = max(state["first_seq"], 1), _whole_from(content)
    lost = [sequence for sequence in state.get("deleted") or () if sequence >= whole_from]
    return StreamFacts(
        epoch=epoch_of(content),
        first_sequence=first,
        last_sequence=state["last_seq"],
        lost_sequence=whole_from if first > whole_from else min(lost, default=None),
    )


def _whole_from(content: Mapping[str, Any]) -> int:
    """Returns the sequence from which on nothing was trimmed or given up."""
    return int(_metadata(content).get(_WHOLE_FROM, "1"))


def _metadata(content: Mapping[str, Any]) -> Mapping[str, str]:
    metadata: Mapping[str, str] = content["config"].get("metadata") or {}
    return metadata
