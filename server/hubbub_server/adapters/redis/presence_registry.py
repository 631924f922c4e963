"""PresenceRegistry in a hash a user and a set a life, changed by scripts alone, beside the keys of the nodes.

`hubbub:{nodes}:presence:<user>`   hash: life → "<noted ms> <until ms> <share>", share as JSON; the life and "~": what
                                   was left behind; `@seen`: when a share that is gone was noted last. Expires 30 days
                                   after the last change.
`hubbub:{nodes}:sessions:<life>`   set: users with a share that was not left behind
`hubbub:{nodes}:born`              since when this table has been there, in milliseconds

One slot, as for the leases: every script judges by them.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from hubbub_server.adapters.redis.connection import RedisConnection
from hubbub_server.adapters.redis.node_registry import LEASE_KEYS, PREFIX, REACH
from hubbub_server.domain.ids import UserId
from hubbub_server.domain.preferences import Status, StatusState
from hubbub_server.domain.presence import GRACE_S, Activity, NotedShare, Share, UserSessions
from hubbub_server.ports.node_registry import LEASE_S
from hubbub_server.ports.presence_registry import BATCH_MAX, RegistryLook

_KEYS: Final = [*LEASE_KEYS, f"{PREFIX}born"]
_USER_PREFIX: Final = f"{PREFIX}presence:"
_KEPT_MS: Final = 30 * 24 * 3600 * 1000
_STATES: Final = {state.value: state for state in StatusState}

# The keys of users come after the five of the table. A share that does not count any more is only worth when it was
# noted; one of a life that waits to be settled stays, for whoever settles it.
_TABLE: Final = (
    REACH
    + """
redis.call('SET', KEYS[5], string.format('%.0f', now), 'NX')
local function parts(noted)
  local at, ends, share = string.match(noted, '^(%d+) (%d+) (.*)$')
  return tonumber(at), tonumber(ends), share
end
local function text(number) return string.format('%.0f', number) end
local function see(key, at)
  if at > tonumber(redis.call('HGET', key, '@seen') or '0') then redis.call('HSET', key, '@seen', text(at)) end
end
local function tidy(key)
  local all = redis.call('HGETALL', key)
  for i = 1, #all, 2 do
    if all[i] ~= '@seen' then
      local at, ends = parts(all[i + 1])
      if (ends > 0 and ends <= now) or (ends == 0 and not redis.call('ZSCORE', leases, all[i])) then
        redis.call('HDEL', key, all[i])
        see(key, at)
      end
    end
  end
end
"""
)

_PUT: Final = """
local life, grace_ms, kept_ms, sessions = ARGV[2], tonumber(ARGV[3]), ARGV[4], KEYS[6]
if not is_good(life) then return false end
local news = {}
for i = 7, #KEYS do
  local key, share, user = KEYS[i], ARGV[2 * i - 9], ARGV[2 * i - 8]
  local noted = redis.call('HGET', key, life)
  local before
  if noted then before = select(3, parts(noted)) end
  if share ~= '' then
    if before ~= share then
      tidy(key)
      redis.call('SADD', sessions, user)
      table.insert(news, user)
    end
    redis.call('HSET', key, life, text(now) .. ' 0 ' .. share)
    redis.call('PEXPIRE', key, kept_ms)
  elseif noted then
    tidy(key)
    redis.call('HDEL', key, life)
    redis.call('HSET', key, life .. '~', text(now) .. ' ' .. text(now + grace_ms) .. ' ' .. before)
    redis.call('SREM', sessions, user)
    redis.call('PEXPIRE', key, kept_ms)
    table.insert(news, user)
  end
end
return news
"""

_READ: Final = """
local rows = {}
for i = 6, #KEYS do
  local all, row, seen = redis.call('HGETALL', KEYS[i]), {}, 0
  for j = 1, #all, 2 do
    if all[j] == '@seen' then
      seen = math.max(seen, tonumber(all[j + 1]))
    else
      local at, ends = parts(all[j + 1])
      if (ends > now) or (ends == 0 and is_good(all[j])) then
        table.insert(row, all[j])
        table.insert(row, all[j + 1])
      else
        seen = math.max(seen, at)
      end
    end
  end
  table.insert(row, 1, text(seen))
  table.insert(rows, row)
end
return rows
"""

_LOOK: Final = """
local alive = {}
for _, life in ipairs(redis.call('ZRANGE', leases, 0, -1)) do
  if is_good(life) then table.insert(alive, life) end
end
return {text(now), redis.call('GET', KEYS[5]), alive}
"""

_FORGET: Final = """
local life, prefix, sessions = ARGV[2], ARGV[3], KEYS[6]
if is_good(life) then return {} end
local users = redis.call('SPOP', sessions, ARGV[4])
for _, user in ipairs(users) do
  local key = prefix .. user
  local noted = redis.call('HGET', key, life)
  if noted then
    redis.call('HDEL', key, life)
    see(key, (parts(noted)))
  end
end
return users
"""


class RedisPresenceRegistry:
    """PresenceRegistry over an open connection."""

    def __init__(self, connection: RedisConnection, *, lease_s: float = LEASE_S, grace_s: float = GRACE_S) -> None:
        """Takes the connection; all nodes must have the same times."""
        self._connection = connection
        self._lease_ms = round(lease_s * 1000)
        self._grace_ms = round(grace_s * 1000)
        self._put, self._read, self._look, self._forget = (
            connection.script(_TABLE + body) for body in (_PUT, _READ, _LOOK, _FORGET)
        )

    async def put(self, life_id: str, shares: Mapping[UserId, Share | None]) -> Sequence[UserId] | None:
        """Notes what a life has of these users."""
        args: list[str | int] = [self._lease_ms, life_id, self._grace_ms, _KEPT_MS]
        for user_id, share in shares.items():
            args += [_encode(share) if share else "", user_id]
        keys = [*_KEYS, _sessions_key(life_id), *map(_user_key, shares)]
        news = await self._connection.run(self._put, keys=keys, args=args)
        return None if news is None else list(news)

    async def read(self, user_ids: Sequence[UserId]) -> Mapping[UserId, UserSessions]:
        """Reads what counts now, for each of the users."""
        keys = [*_KEYS, *map(_user_key, user_ids)]
        rows = await self._connection.run(self._read, keys=keys, args=[self._lease_ms])
        return {user_id: _sessions(row) for user_id, row in zip(user_ids, rows, strict=True)}

    async def look(self) -> RegistryLook:
        """Looks at the lives."""
        now_ms, born_ms, alive = await self._connection.run(self._look, keys=_KEYS, args=[self._lease_ms])
        return RegistryLook(now_ms=int(now_ms), born_ms=int(born_ms), alive=frozenset(alive))

    async def forget(self, life_id: str) -> Sequence[UserId]:
        """Removes what is noted of some users under a life that is over."""
        keys = [*_KEYS, _sessions_key(life_id)]
        args: list[str | int] = [self._lease_ms, life_id, _USER_PREFIX, BATCH_MAX]
        return list(await self._connection.run(self._forget, keys=keys, args=args))


def _user_key(user_id: UserId) -> str:
    return f"{_USER_PREFIX}{user_id}"


def _sessions_key(life_id: str) -> str:
    return f"{PREFIX}sessions:{life_id}"


def _encode(share: Share) -> str:
    status = share.status
    own = [status.state.value, status.text, status.emoji, status.expire_time_ms]
    return json.dumps([share.activity.value, share.is_hidden, *share.position, *own], separators=(",", ":"))


def _decode(text: str) -> Share:
    """Reads a share, perhaps of a newer node, which may say more."""
    activity, is_hidden, epoch, position, state, status_text, emoji, expire_time_ms, *_ = json.loads(text)
    return Share(
        activity=Activity(min(activity, Activity.ACTIVE)),
        is_hidden=is_hidden,
        position=(epoch, position),
        status=Status(
            state=_STATES.get(state, StatusState.AUTOMATIC),
            text=status_text,
            emoji=emoji,
            expire_time_ms=expire_time_ms,
        ),
    )


def _sessions(row: Sequence[Any]) -> UserSessions:
    seen_ms, *noted = row
    shares: dict[str, NotedShare] = {}
    for life_id, text in zip(noted[::2], noted[1::2], strict=True):
        noted_ms, until_ms, share = text.split(" ", 2)
        shares[life_id] = NotedShare(share=_decode(share), noted_ms=int(noted_ms), until_ms=int(until_ms))
    return UserSessions(shares=shares, seen_ms=int(seen_ms))
