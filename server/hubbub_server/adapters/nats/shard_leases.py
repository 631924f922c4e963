"""ShardLeases on JetStream KV: `beat.<worker>` and `claim.<role>.<shard>`; the revision of a claim is its fence.

Beats are removed by the server some time after the last one. That only cleans up: who is dead is not read from it.
"""

from typing import Final

from hubbub_server.adapters.nats.connection import NatsConnection
from hubbub_server.adapters.nats.kv import ensure_bucket, open_bucket
from hubbub_server.ports.shard_leases import Claim, LeaseTable, Unit

_BUCKET: Final = "LEASES"
_BEAT: Final = "beat"
_CLAIM: Final = "claim"
_FORGET_BEAT_S: Final = 180
_ALIVE: Final = b"alive"
_GONE: Final = b""


class NatsShardLeases:
    """ShardLeases over an open connection."""

    def __init__(self, connection: NatsConnection) -> None:
        """Takes the connection; `ensure` makes the bucket."""
        self._connection = connection
        self._bucket = open_bucket(connection, _BUCKET)

    async def ensure(self, *, replicas: int) -> None:
        """Makes the bucket if it is missing. Raises LogUnavailable."""
        await ensure_bucket(self._connection, _BUCKET, replicas=replicas, can_expire=True)

    async def beat(self, worker_id: str) -> None:
        """Says that a worker lives."""
        await self._bucket.put(f"{_BEAT}.{worker_id}", _ALIVE, ttl_s=_FORGET_BEAT_S)

    async def leave(self, worker_id: str) -> None:
        """Takes the beat back."""
        await self._bucket.put(f"{_BEAT}.{worker_id}", _GONE, ttl_s=_FORGET_BEAT_S)

    async def read(self) -> LeaseTable:
        """Reads the table."""
        beats: dict[str, int] = {}
        claims: dict[Unit, Claim] = {}
        for key, document in (await self._bucket.read_all()).items():
            kind, _, name = key.partition(".")
            if kind == _CLAIM:
                role, _, shard = name.rpartition(".")
                claims[Unit(role, int(shard))] = Claim(worker_id=document.value.decode(), fence=document.revision)
            elif document.value != _GONE:
                beats[name] = document.revision
        return LeaseTable(beats=beats, claims=claims)

    async def claim(self, unit: Unit, worker_id: str, *, fence: int) -> int | None:
        """Claims a unit whose claim still has this fence."""
        return await self._bucket.replace(_claim_key(unit), worker_id.encode(), revision=fence)

    async def release(self, unit: Unit, *, fence: int) -> None:
        """Gives a unit to nobody, if its claim still has this fence."""
        await self._bucket.replace(_claim_key(unit), _GONE, revision=fence)


def _claim_key(unit: Unit) -> str:
    return f"{_CLAIM}.{unit.role}.{unit.shard}"
