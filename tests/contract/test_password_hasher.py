"""What every PasswordHasher promises."""

import asyncio
import time

import pytest
from argon2 import PasswordHasher, profiles

from hubbub_server.adapters.crypto.argon2_password_hasher import Argon2PasswordHasher
from hubbub_server.domain.errors import RateLimited

pytestmark = pytest.mark.asyncio


async def test_a_password_fits_its_hash_and_no_other() -> None:
    async with Argon2PasswordHasher(parameters=profiles.CHEAPEST) as hasher:
        hashed = await hasher.hash("пароль 🔑")
        assert await hasher.verify("пароль 🔑", hashed)
        assert not await hasher.verify("пароль", hashed)
        assert not await hasher.verify("пароль 🔑", "no hash at all")


async def test_an_unknown_account_answers_no_to_every_password() -> None:
    async with Argon2PasswordHasher(parameters=profiles.CHEAPEST) as hasher:
        assert not await hasher.verify("", None)
        assert not await hasher.verify("password", None)


async def test_hashes_are_argon2id_of_rfc_9106_and_differ_each_time() -> None:
    async with Argon2PasswordHasher() as hasher:
        hashed = await hasher.hash("correct horse")
        assert hashed.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
        assert hashed != await hasher.hash("correct horse")


async def test_an_unknown_account_takes_as_long_as_a_known_one() -> None:
    """Taken in turn, the least of 9 differs by less than a half: work is not noise, and noise only adds."""

    async def took_s(password_hash: str | None) -> float:
        begin_s = time.perf_counter()
        await hasher.verify("wrong", password_hash)
        return time.perf_counter() - begin_s

    async with Argon2PasswordHasher() as hasher:
        known_hash = await hasher.hash("correct horse")
        turns = [(await took_s(known_hash), await took_s(None)) for _ in range(9)]
    known_s, unknown_s = map(min, zip(*turns, strict=True))
    assert 0.5 < unknown_s / known_s < 2


async def test_when_too_many_wait_the_next_is_told_when_to_come_again() -> None:
    async with Argon2PasswordHasher(threads=1, max_waiting=2) as hasher:
        answers = await asyncio.gather(*(hasher.hash("x" * 8) for _ in range(6)), return_exceptions=True)
        refused = [answer for answer in answers if isinstance(answer, RateLimited)]
        assert len(refused) == 3
        assert all(answer.retry_after_s > 0 for answer in refused)
        await hasher.hash("after the rush")


async def test_hashing_leaves_the_loop_free() -> None:
    async with Argon2PasswordHasher() as hasher:
        turns = 0
        hashing = asyncio.ensure_future(hasher.hash("correct horse"))
        while not hashing.done():
            await asyncio.sleep(0.001)
            turns += 1
        assert turns > 5


async def test_a_hash_with_other_parameters_still_verifies() -> None:
    old = PasswordHasher.from_parameters(profiles.CHEAPEST).hash("correct horse")
    async with Argon2PasswordHasher() as hasher:
        assert await hasher.verify("correct horse", old)
