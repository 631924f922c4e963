"""The streams of the topic log: how they are made, and what they say about themselves.

The *epoch* of a shard is in its stream's metadata. It is written when the stream is made and never again, so a stream
that was lost and made anew has another one than every record, row and cursor of before.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hubbub_server.adapters.nats.connection import NatsConnection
from hubbub_server.adapters.nats.errors import ApiRefusal
from hubbub_server.adapters.nats.records import stream_name
from hubbub_server.domain.errors import LogUnavailable

_EPOCH = "hubbub-epoch"
_SHARDS = "hubbub-shards"
_RETRY_PAUSE_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamFacts:
    """What a shard's stream says: its epoch and the sequence of its last record (0: none)."""

    epoch: int
    first_sequence: int
    last_sequence: int


async def read_stream(connection: NatsConnection, shard: int) -> StreamFacts:
    """Asks the leader of a shard once. Raises LogUnavailable."""
    return _facts(await read_stream_info(connection, stream_name(shard)))


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


async def ensure_streams(
    connection: NatsConnection,
    *,
    shards: int,
    replicas: int,
    max_bytes: int,
    known_epochs: Mapping[int, int],
    timeout_s: float,
) -> None:
    """Makes the streams that are missing; those that exist stay as they are.

    Args:
        connection: An open connection.
        shards: How many; fixed for the life of a cluster.
        replicas: Copies of each stream: 1, or 3 in production.
        max_bytes: Size at which a shard refuses appends; -1 for none.
        known_epochs: The newest epoch of each shard that the store has seen. A new stream gets the next one.
        timeout_s: How long to wait for a cluster that is still starting.

    Raises:
        LogUnavailable: it did not succeed in time.
        ValueError: the streams were made for another number of shards.
    """
    for shard in range(shards):
        config = _config(shard, shards, replicas, max_bytes, known_epochs.get(shard, 0) + 1)
        content = await _read_or_make_patiently(connection, config, timeout_s)
        made_for = _metadata(content).get(_SHARDS)
        if made_for != str(shards):
            raise ValueError(f"{stream_name(shard)} was made for {made_for} shards, not for {shards}")


def _config(shard: int, shards: int, replicas: int, max_bytes: int, epoch: int) -> dict[str, Any]:
    return {
        "name": stream_name(shard),
        "subjects": [f"log.{shard}.>"],
        "retention": "limits",
        "storage": "file",
        "discard": "new",
        "num_replicas": replicas,
        "max_bytes": max_bytes,
        "max_msgs": -1,
        "max_consumers": -1,
        "allow_direct": True,
        "republish": {"src": f"log.{shard}.>", "dest": f"live.{shard}.>"},
        "metadata": {_EPOCH: str(epoch), _SHARDS: str(shards)},
    }


async def _read_or_make_patiently(
    connection: NatsConnection, config: Mapping[str, Any], timeout_s: float
) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    give_up_s = loop.time() + timeout_s
    while True:
        try:
            return await _read_or_make(connection, config)
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


def _facts(content: Mapping[str, Any]) -> StreamFacts:
    try:
        epoch = int(_metadata(content)[_EPOCH])
    except (KeyError, ValueError) as error:
        raise LogUnavailable(f"{content['config']['name']} has no epoch: it was not made by hubbub") from error
    state = content["state"]
    return StreamFacts(epoch=epoch, first_sequence=state["first_seq"], last_sequence=state["last_seq"])


def _metadata(content: Mapping[str, Any]) -> Mapping[str, str]:
    metadata: Mapping[str, str] = content["config"].get("metadata") or {}
    return metadata
