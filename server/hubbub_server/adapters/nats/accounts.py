"""AccountStore and DeviceSessionStore on JetStream KV.

An account is one document under its login name, so a name has one owner; its profile is another under the user's id.
The profile is written first: an account that can be found always has one, and a profile without an account belongs to
an id that nobody was ever told. The password hash is in the account only.
"""

import json
import re
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict, fields
from typing import Any, TypeVar

from hubbub_server.adapters.nats.connection import NatsConnection
from hubbub_server.adapters.nats.kv import ensure_bucket, open_bucket
from hubbub_server.domain.errors import LogUnavailable, NameTaken
from hubbub_server.domain.ids import DeviceSessionId, UserId
from hubbub_server.ports.accounts import Account, DeviceSession, Profile

T = TypeVar("T", Account, Profile, DeviceSession)

_ACCOUNTS = "ACCOUNTS"
_PROFILES = "PROFILES"
_DEVICE_SESSIONS = "DEVICE_SESSIONS"
_KEPT_AFTER_EXPIRY_S = 24 * 3600
_LOGIN_NAME = re.compile(r"[a-z0-9_.-]+\Z")


async def ensure_buckets(connection: NatsConnection, *, replicas: int) -> None:
    """Makes the buckets that are missing. Raises LogUnavailable."""
    await ensure_bucket(connection, _ACCOUNTS, replicas=replicas, can_expire=False)
    await ensure_bucket(connection, _PROFILES, replicas=replicas, can_expire=False)
    await ensure_bucket(connection, _DEVICE_SESSIONS, replicas=replicas, can_expire=True)


class NatsAccountStore:
    """AccountStore over an open connection whose buckets exist."""

    def __init__(self, connection: NatsConnection) -> None:
        """Takes the connection."""
        self._accounts = open_bucket(connection, _ACCOUNTS)
        self._profiles = open_bucket(connection, _PROFILES)

    async def create(self, account: Account) -> None:
        """Creates an account under its login name, and its profile. Raises NameTaken when the name is another's."""
        found = await self.find(account.login_name)
        if found is not None and found.user_id != account.user_id:
            raise NameTaken
        profile = Profile(user_id=account.user_id, login_name=account.login_name, display_name=account.display_name)
        if not await self._profiles.write(account.user_id, _encode(profile), revision=0):
            raise LogUnavailable(f"user id {account.user_id} has another profile")
        if not await self._accounts.write(_account_key(account.login_name), _encode(account), revision=0):
            raise NameTaken

    async def find(self, login_name: str) -> Account | None:
        """Finds an account by its folded login name."""
        if _LOGIN_NAME.match(login_name) is None:
            return None
        document = await self._accounts.read(_account_key(login_name))
        return _decode(Account, document.value) if document else None

    async def read_profiles(self, user_ids: Collection[UserId]) -> Mapping[UserId, Profile]:
        """Reads profiles; unknown ids are left out."""
        documents = await self._profiles.read_many(list(dict.fromkeys(user_ids)))
        profiles = [_decode(Profile, value) for value in documents.values()]
        return {profile.user_id: profile for profile in profiles}


class NatsDeviceSessionStore:
    """DeviceSessionStore over an open connection whose buckets exist. A day after a session expired its key is gone."""

    def __init__(self, connection: NatsConnection) -> None:
        """Takes the connection."""
        self._sessions = open_bucket(connection, _DEVICE_SESSIONS)

    async def create(self, session: DeviceSession) -> None:
        """Stores a new session."""
        if not await self._write(session, revision=0):
            raise LogUnavailable(f"device session {session.device_session_id} exists")

    async def read(self, device_session_id: DeviceSessionId) -> tuple[DeviceSession, int] | None:
        """Reads a session and its revision; None when there is none."""
        document = await self._sessions.read(device_session_id)
        return (_decode(DeviceSession, document.value), document.revision) if document else None

    async def update(self, session: DeviceSession, *, revision: int) -> bool:
        """Replaces a session if its revision is still `revision`; tells whether it was."""
        return await self._write(session, revision=revision)

    async def _write(self, session: DeviceSession, *, revision: int) -> bool:
        left_s = max(session.expire_time_ms / 1000 - time.time(), 0)
        return await self._sessions.write(
            session.device_session_id,
            _encode(session),
            revision=revision,
            ttl_s=int(left_s) + _KEPT_AFTER_EXPIRY_S,
        )


def _account_key(login_name: str) -> str:
    # A dot separates tokens and may not stand at an end; "=" is good in a key and in no login name.
    if _LOGIN_NAME.match(login_name) is None:
        raise ValueError(f"{login_name!r} is no folded login name")
    return login_name.replace(".", "=")


def _encode(document: Account | Profile | DeviceSession) -> bytes:
    return json.dumps(asdict(document)).encode()


def _decode(kind: type[T], value: bytes) -> T:
    """Reads a document; what a newer version wrote besides is ignored."""
    content: dict[str, Any] = json.loads(value)
    return kind(**{field.name: content[field.name] for field in fields(kind)})
