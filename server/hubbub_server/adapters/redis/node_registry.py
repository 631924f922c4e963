"""NodeRegistry in four keys of one slot, changed by scripts alone, each of them atomic and on the server's own clock.

`{nodes}:leases`   sorted set: life → when its lease runs out, in milliseconds; 0: given back
`{nodes}:lives`    hash: life → node and address, as JSON
`{nodes}:claims`   hash: life that is gone → life that settles it
`{nodes}:reached`  when anybody reached the table last, in milliseconds

Nothing expires by itself: who is gone must be seen by somebody, and that is not what key expiry promises.
"""

import json
from typing import Final

from hubbub_server.adapters.redis.connection import RedisConnection
from hubbub_server.ports.node_registry import LEASE_S, NodeLife, NodeTable

PREFIX: Final = "hubbub:{nodes}:"
LEASE_KEYS: Final = [f"{PREFIX}{name}" for name in ("leases", "lives", "claims", "reached")]

# Runs first in every script. Where nobody was for half a lease, or where the clock was set back, leases are not what
# they say: those who lived then have a whole one from now on, and who was gone stays gone.
REACH: Final = """
local leases, lives, claims, reached = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local lease_ms = tonumber(ARGV[1])
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local last = tonumber(redis.call('GET', reached) or '0')
if now < last or now - last > lease_ms / 2 then
  local all = redis.call('ZRANGE', leases, 0, -1, 'WITHSCORES')
  for i = 1, #all, 2 do
    local lived = tonumber(all[i + 1]) > last
    redis.call('ZADD', leases, lived and now + lease_ms or 0, all[i])
  end
end
redis.call('SET', reached, now)
local function is_good(life)
  local ends = life and redis.call('ZSCORE', leases, life)
  return ends and tonumber(ends) > now
end
"""

_BEGIN: Final = """
if not redis.call('ZSCORE', leases, ARGV[2]) then
  redis.call('ZADD', leases, now + lease_ms, ARGV[2])
  redis.call('HSET', lives, ARGV[2], ARGV[3])
end
"""

_RENEW: Final = """
if not is_good(ARGV[2]) then return 0 end
redis.call('ZADD', leases, now + lease_ms, ARGV[2])
return 1
"""

_END: Final = """
redis.call('ZADD', leases, 'XX', 0, ARGV[2])
"""

_READ: Final = """
local rows = {}
for _, life in ipairs(redis.call('ZRANGE', leases, 0, -1)) do
  table.insert(rows, {life, is_good(life) and 1 or 0, redis.call('HGET', lives, life) or '{}'})
end
return rows
"""

_CLAIM: Final = """
local life, by = ARGV[2], ARGV[3]
if not redis.call('ZSCORE', leases, life) or is_good(life) or not is_good(by) then return 0 end
local holder = redis.call('HGET', claims, life)
if holder and holder ~= by and is_good(holder) then return 0 end
redis.call('HSET', claims, life, by)
return 1
"""

_SETTLE: Final = """
local life, by = ARGV[2], ARGV[3]
if redis.call('HGET', claims, life) == by then
  redis.call('ZREM', leases, life)
  redis.call('HDEL', lives, life)
  redis.call('HDEL', claims, life)
end
"""


class RedisNodeRegistry:
    """NodeRegistry over an open connection."""

    def __init__(self, connection: RedisConnection, *, lease_s: float = LEASE_S) -> None:
        """Takes the connection; all nodes must have the same `lease_s`."""
        self._connection = connection
        self._lease_ms = round(lease_s * 1000)
        self._begin, self._renew, self._end, self._read, self._claim, self._settle = (
            connection.script(REACH + body) for body in (_BEGIN, _RENEW, _END, _READ, _CLAIM, _SETTLE)
        )

    async def begin(self, life: NodeLife) -> None:
        """Begins a life with a whole lease."""
        facts = json.dumps({"node_id": life.node_id, "address": life.address})
        await self._connection.run(self._begin, keys=LEASE_KEYS, args=[self._lease_ms, life.life_id, facts])

    async def renew(self, life_id: str) -> bool:
        """Gives a life a whole lease from now on, if it is good."""
        return bool(await self._connection.run(self._renew, keys=LEASE_KEYS, args=[self._lease_ms, life_id]))

    async def end(self, life_id: str) -> None:
        """Ends a life at once."""
        await self._connection.run(self._end, keys=LEASE_KEYS, args=[self._lease_ms, life_id])

    async def read(self) -> NodeTable:
        """Reads the table as it is now."""
        rows = await self._connection.run(self._read, keys=LEASE_KEYS, args=[self._lease_ms])
        lives = [(_life(life_id, facts), bool(is_good)) for life_id, is_good, facts in rows]
        lives.sort(key=lambda row: row[0].life_id)
        return NodeTable(
            alive=[life for life, is_good in lives if is_good], gone=[life for life, is_good in lives if not is_good]
        )

    async def claim(self, life_id: str, *, by: str) -> bool:
        """Claims a life that is gone for the life `by`."""
        return bool(await self._connection.run(self._claim, keys=LEASE_KEYS, args=[self._lease_ms, life_id, by]))

    async def settle(self, life_id: str, *, by: str) -> None:
        """Removes a life that `by` has the claim to."""
        await self._connection.run(self._settle, keys=LEASE_KEYS, args=[self._lease_ms, life_id, by])


def _life(life_id: str, facts: str) -> NodeLife:
    known = json.loads(facts)
    return NodeLife(life_id=life_id, node_id=known.get("node_id", ""), address=known.get("address", ""))
