"""Local accounts: who is calling, and the tokens that prove it.

A sign-in is a *device session* with a refresh family. Each refresh makes the next generation. The state of a family:

    newest generation g ── refresh with g ──────────────► g+1, token g good for 60 s more
    (not confirmed)     ── refresh with g-1, in time ───► the same answer again: the first one was lost
                        ── access token of g is used ───► confirmed: the client has it, token g-1 ends
    any                 ── refresh with an older token ─► revoked: somebody else has a copy

Refresh tokens are authenticated, so a guess never reaches a family and revokes nothing. An access token of a revoked
family lives out its ten minutes at most.
"""

import asyncio
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Final, Self

import structlog

from hubbub_server.app.throttle import Throttle
from hubbub_server.domain.errors import (
    BadCredentials,
    InvalidField,
    LogUnavailable,
    NameTaken,
    RateLimited,
)
from hubbub_server.domain.ids import DeviceSessionId, TopicId, UserId
from hubbub_server.domain.limits import (
    PASSWORD_MAX_CODE_POINTS,
    PASSWORD_MIN_CODE_POINTS,
    clean_login_name,
    clean_name,
)
from hubbub_server.ports.accounts import Account, AccountStore, DeviceSession, DeviceSessionStore
from hubbub_server.ports.clock import Clock, IdSource
from hubbub_server.ports.credentials import AccessClaims, PasswordHasher, TokenSigner

ACCESS_TTL_S: Final = 600
REFRESH_TTL_MS: Final = 30 * 24 * 3600 * 1000
PREVIOUS_TOKEN_MS: Final = 60_000
_RACES: Final = 8
_CONFIRM_TIMEOUT_S: Final = 5.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who calls, proven by an access token. Good until `token_expire_time_ms` and not a moment longer."""

    user_id: UserId
    device_session_id: DeviceSessionId
    token_expire_time_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What a signed-in device holds. Both tokens are secrets."""

    access_token: str
    access_expire_time_ms: int
    refresh_token: str
    user_id: UserId
    device_session_id: DeviceSessionId


class Authenticate:
    """Registers, signs in, refreshes and recognises callers.

    Open it with `async with`: it owns the task that confirms refreshed families. All coroutines raise LogUnavailable
    when accounts or sessions cannot be reached, and RateLimited when somebody tries too often.
    """

    def __init__(
        self,
        *,
        accounts: AccountStore,
        sessions: DeviceSessionStore,
        hasher: PasswordHasher,
        signer: TokenSigner,
        clock: Clock,
        ids: IdSource,
    ) -> None:
        self._accounts = accounts
        self._sessions = sessions
        self._hasher = hasher
        self._signer = signer
        self._clock = clock
        self._ids = ids
        self._logins = Throttle(clock, text="too many failed sign-ins", burst=10, per_s=1 / 6)
        self._registrations = Throttle(clock, text="too many registrations", burst=1_000, per_s=10)
        self._refreshes = Throttle(clock, text="too many refreshes", burst=30, per_s=0.5)
        self._confirmations = _Confirmations(sessions)
        self._tasks = asyncio.TaskGroup()
        self._confirming: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        self._confirming = self._tasks.create_task(self._confirmations.run(), name="confirm refreshed families")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._confirming is not None:
            self._confirming.cancel()
        await self._tasks.__aexit__(None, None, None)  # an error of the body goes on as it is, not in a group

    async def register(self, login_name: str, password: str, display_name: str) -> Credentials:
        """Creates an account and signs it in. After an unknown outcome (LogUnavailable) sign in instead.

        Raises:
            InvalidField: login_name, password or display_name breaks its rule.
            NameTaken: the login name belongs to another account.
        """
        login_name = clean_login_name("login_name", login_name)
        if not PASSWORD_MIN_CODE_POINTS <= len(password) <= PASSWORD_MAX_CODE_POINTS:
            raise InvalidField("password", f"{PASSWORD_MIN_CODE_POINTS} to {PASSWORD_MAX_CODE_POINTS} code points")
        display_name = clean_name("display_name", display_name)
        self._registrations.take("")
        if await self._accounts.find(login_name) is not None:
            raise NameTaken  # before the hash: it is slow, and create() checks again
        account = Account(
            user_id=UserId(TopicId(self._ids.new_id("u"))),
            login_name=login_name,
            display_name=display_name,
            password_hash=await self._hasher.hash(password),
            create_time_ms=self._clock.now_ms(),
        )
        await self._accounts.create(account)
        return await self._start_session(account.user_id)

    async def login(self, login_name: str, password: str) -> Credentials:
        """Starts a device session.

        Raises:
            BadCredentials: no such name, or another password; alike in words and time.
        """
        try:
            login_name = clean_login_name("login_name", login_name)
        except InvalidField as error:
            raise BadCredentials from error  # nobody can have that name
        if len(password) > PASSWORD_MAX_CODE_POINTS:
            raise BadCredentials  # nobody can have that password
        self._logins.take(login_name)
        try:
            account = await self._accounts.find(login_name)
            is_right = await self._hasher.verify(password, account.password_hash if account else None)
        except (LogUnavailable, RateLimited):
            self._logins.give_back(login_name)  # it told nothing about the password
            raise
        if account is None or not is_right:
            raise BadCredentials
        self._logins.give_back(login_name)
        return await self._start_session(account.user_id)

    async def refresh(self, refresh_token: str) -> Credentials:
        """Exchanges a refresh token for the next pair. A repeat in time with the same token gets the same pair.

        Raises:
            BadCredentials: not a token of ours, its session ended, or it was replaced; the last revokes the session.
        """
        session_id, generation = self._signer.read_refresh_token(refresh_token)
        self._refreshes.take(session_id)
        for _ in range(_RACES):
            found = await self._sessions.read(session_id)
            if found is None:
                raise BadCredentials
            session, revision = found
            used = _use_refresh_token(session, generation, self._clock.now_ms())
            if used == session or await self._sessions.update(used, revision=revision):
                if used.is_revoked:
                    raise BadCredentials
                return self._credentials(used)
        raise LogUnavailable("too many refreshes of this session at once")

    def authenticate(self, access_token: str) -> Caller:
        """Tells who holds an access token. No I/O; the first use of a refreshed token is noted in the background.

        Raises:
            CredentialsExpired: it was good once.
            BadCredentials: it never was.
        """
        claims = self._signer.verify(access_token)
        self._confirmations.note(claims.device_session_id, claims.generation)
        return Caller(
            user_id=claims.user_id,
            device_session_id=claims.device_session_id,
            token_expire_time_ms=claims.expire_time_ms,
        )

    async def _start_session(self, user_id: UserId) -> Credentials:
        session = DeviceSession(
            device_session_id=DeviceSessionId(self._ids.new_id("d")),
            user_id=user_id,
            generation=1,
            previous_good_until_ms=0,
            is_confirmed=True,
            is_revoked=False,
            expire_time_ms=self._clock.now_ms() + REFRESH_TTL_MS,
        )
        await self._sessions.create(session)
        return self._credentials(session)

    def _credentials(self, session: DeviceSession) -> Credentials:
        expire_time_ms = (self._clock.now_ms() // 1000 + ACCESS_TTL_S) * 1000  # tokens count whole seconds
        claims = AccessClaims(
            user_id=session.user_id,
            device_session_id=session.device_session_id,
            generation=session.generation,
            expire_time_ms=expire_time_ms,
        )
        return Credentials(
            access_token=self._signer.sign(claims),
            access_expire_time_ms=expire_time_ms,
            refresh_token=self._signer.refresh_token(session.device_session_id, session.generation),
            user_id=session.user_id,
            device_session_id=session.device_session_id,
        )


def _use_refresh_token(session: DeviceSession, generation: int, now_ms: int) -> DeviceSession:
    """Returns the session after its token of `generation` was used: the next one, the same one, or a revoked one."""
    if session.is_revoked or now_ms >= session.expire_time_ms or generation > session.generation:
        raise BadCredentials
    if generation == session.generation:
        return replace(
            session,
            generation=generation + 1,
            previous_good_until_ms=now_ms + PREVIOUS_TOKEN_MS,
            is_confirmed=False,
            expire_time_ms=now_ms + REFRESH_TTL_MS,
        )
    is_repeat = generation == session.generation - 1 and not session.is_confirmed
    if is_repeat and now_ms < session.previous_good_until_ms:
        return session
    return replace(session, is_revoked=True)


class _Confirmations:
    """Notes in the session store, once each, that an access token of a new generation was used.

    A full queue drops the note: the next use of the token makes it again, and the 60 s end the old token anyway.
    """

    def __init__(self, sessions: DeviceSessionStore, *, max_waiting: int = 1_024, max_noted: int = 50_000) -> None:
        self._sessions = sessions
        self._waiting: asyncio.Queue[tuple[DeviceSessionId, int]] = asyncio.Queue(max_waiting)
        self._noted: OrderedDict[tuple[DeviceSessionId, int], None] = OrderedDict()
        self._max_noted = max_noted

    def note(self, session_id: DeviceSessionId, generation: int) -> None:
        """Takes a use; the first generation needs no note."""
        key = (session_id, generation)
        if generation == 1 or key in self._noted:
            return
        with suppress(asyncio.QueueFull):
            self._waiting.put_nowait(key)
            self._noted[key] = None
            if len(self._noted) > self._max_noted:
                self._noted.popitem(last=False)

    async def run(self) -> None:
        """Writes notes until it is cancelled."""
        while True:
            key = await self._waiting.get()
            try:
                async with asyncio.timeout(_CONFIRM_TIMEOUT_S):
                    await self._confirm(*key)
            except (LogUnavailable, TimeoutError):
                self._noted.pop(key, None)
            except Exception:  # a session that cannot be read is its owner's trouble, not this node's end
                log.exception("confirmation failed", device_session_id=key[0])

    async def _confirm(self, session_id: DeviceSessionId, generation: int) -> None:
        for _ in range(_RACES):
            found = await self._sessions.read(session_id)
            if found is None:
                return
            session, revision = found
            if session.generation != generation or session.is_confirmed:
                return
            if await self._sessions.update(replace(session, is_confirmed=True), revision=revision):
                return
