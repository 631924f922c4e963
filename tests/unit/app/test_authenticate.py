"""Accounts, device sessions and refresh families."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from hubbub_server.app.authenticate import ACCESS_TTL_S, REFRESH_TTL_MS, Authenticate, Credentials
from hubbub_server.domain.errors import (
    BadCredentials,
    CredentialsExpired,
    InvalidField,
    LogUnavailable,
    NameTaken,
    RateLimited,
)
from hubbub_server.domain.ids import DeviceSessionId
from hubbub_server.ports.accounts import DeviceSession
from hubbub_server.ports.credentials import AccessClaims
from tests.support.fakes.accounts import FakeAccountStore, FakeDeviceSessionStore
from tests.support.fakes.clock import FakeClock, FakeIds

pytestmark = pytest.mark.asyncio
PASSWORD = "correct horse"


class PlainHasher:
    """A PasswordHasher without the hashing; counts what it was asked to do."""

    def __init__(self) -> None:
        self.verified: list[str | None] = []
        self.is_busy = False

    async def hash(self, password: str) -> str:
        return f"hash of {password}"

    async def verify(self, password: str, password_hash: str | None) -> bool:
        if self.is_busy:
            raise RateLimited("busy", retry_after_s=1)
        self.verified.append(password_hash)
        return password_hash == f"hash of {password}"


class PlainSigner:
    """A TokenSigner without the signing."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self._claims: dict[str, AccessClaims] = {}

    def sign(self, claims: AccessClaims) -> str:
        token = f"access {len(self._claims)}"
        self._claims[token] = claims
        return token

    def verify(self, access_token: str) -> AccessClaims:
        if access_token not in self._claims:
            raise BadCredentials
        if self._clock.now_ms() >= self._claims[access_token].expire_time_ms:
            raise CredentialsExpired
        return self._claims[access_token]

    def refresh_token(self, device_session_id: DeviceSessionId, generation: int) -> str:
        return f"refresh {device_session_id} {generation}"

    def read_refresh_token(self, refresh_token: str) -> tuple[DeviceSessionId, int]:
        if not refresh_token.startswith("refresh "):
            raise BadCredentials
        _, session_id, generation = refresh_token.split(" ")
        return DeviceSessionId(session_id), int(generation)


@dataclass
class World:
    """An Authenticate on fakes."""

    clock: FakeClock = field(default_factory=FakeClock)
    accounts: FakeAccountStore = field(default_factory=FakeAccountStore)
    sessions: FakeDeviceSessionStore = field(default_factory=FakeDeviceSessionStore)
    hasher: PlainHasher = field(default_factory=PlainHasher)

    def __post_init__(self) -> None:
        self.auth = Authenticate(
            accounts=self.accounts,
            sessions=self.sessions,
            hasher=self.hasher,
            signer=PlainSigner(self.clock),
            clock=self.clock,
            ids=FakeIds(),
        )

    async def register(self, name: str = "alice") -> Credentials:
        return await self.auth.register(name, PASSWORD, "Alice")

    async def use_access_token(self, credentials: Credentials) -> None:
        """Uses it and waits until the use is noted."""
        self.auth.authenticate(credentials.access_token)
        async with asyncio.timeout(5):
            while not await self.is_confirmed(credentials):  # noqa: ASYNC110  # a turn of the loop, not a sleep
                await asyncio.sleep(0)

    async def is_confirmed(self, credentials: Credentials) -> bool:
        found = await self.sessions.read(credentials.device_session_id)
        return found is not None and found[0].is_confirmed


@asynccontextmanager
async def open_world() -> AsyncIterator[World]:
    world = World()
    async with world.auth:
        yield world


async def test_a_new_account_is_signed_in_and_can_sign_in_again_in_any_case() -> None:
    async with open_world() as world:
        first = await world.auth.register("Alice", PASSWORD, "  Alice  ")
        second = await world.auth.login("ALICE", PASSWORD)
        assert world.auth.authenticate(second.access_token).user_id == first.user_id
        assert second.device_session_id != first.device_session_id
        found = await world.accounts.find("alice")
        assert found is not None
        assert found.display_name == "Alice"


async def test_a_taken_name_is_refused_and_its_account_stays_as_it_was() -> None:
    async with open_world() as world:
        await world.register()
        with pytest.raises(NameTaken):
            await world.auth.register("ALICE", "another password", "Mallory")
        await world.auth.login("alice", PASSWORD)


@pytest.mark.parametrize(
    ("name", "password", "display_name", "field_name"),
    [
        ("al", PASSWORD, "Alice", "login_name"),
        ("a" * 33, PASSWORD, "Alice", "login_name"),
        ("al/ice", PASSWORD, "Alice", "login_name"),
        ("\u212aelvin", PASSWORD, "Kelvin", "login_name"),
        ("alice", "1234567", "Alice", "password"),
        ("alice", "x" * 257, "Alice", "password"),
        ("alice", PASSWORD, "", "display_name"),
        ("alice", PASSWORD, "x" * 101, "display_name"),
        ("alice", PASSWORD, "\u200e", "display_name"),
    ],
)
async def test_a_field_beyond_its_bound_is_named(name: str, password: str, display_name: str, field_name: str) -> None:
    async with open_world() as world:
        with pytest.raises(InvalidField) as refused:
            await world.auth.register(name, password, display_name)
        assert refused.value.field == field_name


@pytest.mark.parametrize("password", ["12345678", "x" * 256, "пароли🔑🔑"])
@pytest.mark.parametrize("name", ["abc", "a" * 32, "._-"])
async def test_a_field_at_its_bound_is_taken(name: str, password: str) -> None:
    async with open_world() as world:
        await world.auth.register(name, password, "x" * 100)
        await world.auth.login(name, password)


@pytest.mark.parametrize(
    ("name", "password"),
    [("alice", "wrong password"), ("nobody", PASSWORD), ("no name", PASSWORD), ("alice", "x" * 257)],
)
async def test_every_failed_sign_in_says_the_same(name: str, password: str) -> None:
    """C47: whether an account exists cannot be read from the answer."""
    async with open_world() as world:
        await world.register()
        with pytest.raises(BadCredentials) as refused:
            await world.auth.login(name, password)
        assert str(refused.value) == "sign in again"


async def test_an_unknown_name_costs_one_hash_as_a_known_one_does() -> None:
    async with open_world() as world:
        await world.register()
        for name in ("alice", "nobody"):
            with pytest.raises(BadCredentials):
                await world.auth.login(name, "wrong password")
        assert world.hasher.verified == [f"hash of {PASSWORD}", None]


async def test_guessing_is_slowed_down_per_name_and_signing_in_is_not() -> None:
    """C78."""
    async with open_world() as world:
        await world.register()
        await world.register("bob")
        for _ in range(50):
            await world.auth.login("alice", PASSWORD)
        for _ in range(10):
            with pytest.raises(BadCredentials):
                await world.auth.login("alice", "wrong password")
        with pytest.raises(RateLimited) as refused:
            await world.auth.login("alice", PASSWORD)
        assert refused.value.retry_after_s > 0
        await world.auth.login("bob", PASSWORD)
        world.clock.advance(refused.value.retry_after_s)
        await world.auth.login("alice", PASSWORD)


async def test_a_busy_or_unreachable_server_does_not_count_as_a_guess() -> None:
    async with open_world() as world:
        await world.register()
        world.hasher.is_busy = True
        for _ in range(20):
            with pytest.raises(RateLimited, match="busy"):
                await world.auth.login("alice", PASSWORD)
        world.hasher.is_busy, world.accounts.is_down = False, True
        for _ in range(20):
            with pytest.raises(LogUnavailable):
                await world.auth.login("alice", PASSWORD)
        world.accounts.is_down = False
        await world.auth.login("alice", PASSWORD)


async def test_an_access_token_lives_ten_minutes_and_names_its_session() -> None:
    async with open_world() as world:
        credentials = await world.register()
        caller = world.auth.authenticate(credentials.access_token)
        assert caller.device_session_id == credentials.device_session_id
        assert caller.token_expire_time_ms == credentials.access_expire_time_ms
        assert 0 < caller.token_expire_time_ms - world.clock.now_ms() <= ACCESS_TTL_S * 1000
        world.clock.advance(ACCESS_TTL_S)
        with pytest.raises(CredentialsExpired):
            world.auth.authenticate(credentials.access_token)


async def test_a_refresh_gives_a_new_pair_of_the_same_session() -> None:
    async with open_world() as world:
        first = await world.register()
        second = await world.auth.refresh(first.refresh_token)
        assert (second.user_id, second.device_session_id) == (first.user_id, first.device_session_id)
        assert second.refresh_token != first.refresh_token
        await world.use_access_token(second)
        await world.auth.refresh(second.refresh_token)


async def test_a_lost_answer_costs_no_sign_in_for_sixty_seconds() -> None:
    async with open_world() as world:
        first = await world.register()
        lost = await world.auth.refresh(first.refresh_token)
        world.clock.advance(59.9)
        again = await world.auth.refresh(first.refresh_token)
        assert again.refresh_token == lost.refresh_token


async def test_two_refreshes_at_once_get_the_same_token() -> None:
    async with open_world() as world:
        first = await world.register()
        pair = await asyncio.gather(*(world.auth.refresh(first.refresh_token) for _ in range(5)))
        assert len({credentials.refresh_token for credentials in pair}) == 1


@pytest.mark.parametrize("reason", ["used", "late"])
async def test_an_old_token_that_comes_too_late_revokes_the_session(reason: str) -> None:
    async with open_world() as world:
        first = await world.register()
        second = await world.auth.refresh(first.refresh_token)
        if reason == "used":
            await world.use_access_token(second)
        else:
            world.clock.advance(60)
        with pytest.raises(BadCredentials):
            await world.auth.refresh(first.refresh_token)
        with pytest.raises(BadCredentials):
            await world.auth.refresh(second.refresh_token)
        await world.auth.login("alice", PASSWORD)


async def test_a_token_two_generations_old_revokes_the_session_at_once() -> None:
    async with open_world() as world:
        first = await world.register()
        second = await world.auth.refresh(first.refresh_token)
        third = await world.auth.refresh(second.refresh_token)
        with pytest.raises(BadCredentials):
            await world.auth.refresh(first.refresh_token)
        with pytest.raises(BadCredentials):
            await world.auth.refresh(third.refresh_token)


@pytest.mark.parametrize("token", ["", "guess", "refresh d404 1", "access 0"])
async def test_a_guess_revokes_nothing(token: str) -> None:
    async with open_world() as world:
        first = await world.register()
        with pytest.raises(BadCredentials):
            await world.auth.refresh(token)
        await world.auth.refresh(first.refresh_token)


async def test_a_session_that_was_not_refreshed_for_thirty_days_ends() -> None:
    async with open_world() as world:
        first = await world.register()
        world.clock.advance(REFRESH_TTL_MS / 1000 - 1)
        second = await world.auth.refresh(first.refresh_token)
        world.clock.advance(REFRESH_TTL_MS / 1000)
        with pytest.raises(BadCredentials):
            await world.auth.refresh(second.refresh_token)


async def test_refreshing_in_a_loop_is_slowed_down() -> None:
    async with open_world() as world:
        credentials = await world.register()
        for _ in range(30):
            credentials = await world.auth.refresh(credentials.refresh_token)
        with pytest.raises(RateLimited) as refused:
            await world.auth.refresh(credentials.refresh_token)
        assert refused.value.retry_after_s > 0


async def test_a_confirmation_that_failed_is_made_at_the_next_use() -> None:
    async with open_world() as world:
        first = await world.register()
        second = await world.auth.refresh(first.refresh_token)
        world.sessions.is_down = True
        world.auth.authenticate(second.access_token)
        for _ in range(5):
            await asyncio.sleep(0)  # the background task meets the failure
        world.sessions.is_down = False
        await world.use_access_token(second)


async def test_a_session_that_cannot_be_read_ends_nothing_else() -> None:
    """One damaged document must not end the node, again and again."""

    class Damaged(FakeDeviceSessionStore):
        is_damaged = True

        async def read(self, device_session_id: DeviceSessionId) -> tuple[DeviceSession, int] | None:
            if self.is_damaged:
                raise KeyError("generation")
            return await super().read(device_session_id)

    async with open_world() as world:
        first = await world.register()
        second = await world.auth.refresh(first.refresh_token)
        world.sessions.__class__ = Damaged
        world.auth.authenticate(second.access_token)
        for _ in range(5):
            await asyncio.sleep(0)  # the background task meets the failure
        world.sessions.__class__ = FakeDeviceSessionStore
        third = await world.auth.refresh(second.refresh_token)
        await world.use_access_token(third)
