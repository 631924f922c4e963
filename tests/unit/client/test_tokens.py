"""Access tokens: renewed in time, once for all who ask, kept before they are used."""

import asyncio
from datetime import UTC, datetime, timedelta

import grpc
import pytest

from hubbub_client.errors import SignedOut, Unavailable
from hubbub_client.model import Credentials
from hubbub_client.tokens import Tokens


def credentials(number: int, *, lives_s: float = 600.0) -> Credentials:
    return Credentials(
        user_id="u1",
        device_session_id="d1",
        access_token=f"access {number}",
        refresh_token=f"refresh {number}",
        access_expire_time=datetime.now(UTC) + timedelta(seconds=lives_s),
    )


@pytest.mark.asyncio
async def test_callers_that_find_the_token_refused_share_one_renewal() -> None:
    asked: list[str] = []

    async def renew(old: Credentials) -> Credentials:
        asked.append(old.refresh_token)
        await asyncio.sleep(0)
        return credentials(2)

    async with asyncio.TaskGroup() as tasks:
        tokens = Tokens(credentials(1), renew, tasks)
        await asyncio.gather(*(tokens.replace("access 1") for _ in range(10)))
        await tokens.replace("access 1")  # came late: it is renewed already

    assert asked == ["refresh 1"]
    assert await tokens.current() == "access 2"


@pytest.mark.asyncio
async def test_a_caller_who_goes_away_does_not_end_the_renewal_for_the_others() -> None:
    may_answer = asyncio.Event()

    async def renew(_: Credentials) -> Credentials:
        await may_answer.wait()
        return credentials(2)

    async with asyncio.TaskGroup() as tasks:
        tokens = Tokens(credentials(1), renew, tasks)
        impatient = tasks.create_task(tokens.replace("access 1"))
        patient = tasks.create_task(tokens.replace("access 1"))
        await asyncio.sleep(0)
        impatient.cancel()
        await asyncio.sleep(0)
        may_answer.set()
        await patient

    assert await tokens.current() == "access 2"


@pytest.mark.asyncio
async def test_a_new_pair_is_kept_before_it_is_used() -> None:
    kept: list[str] = []

    async def renew(_: Credentials) -> Credentials:
        return credentials(2)

    async with asyncio.TaskGroup() as tasks:
        tokens = Tokens(credentials(1), renew, tasks, lambda pair: kept.append(pair.refresh_token))
        await tokens.replace("access 1")

    assert kept == ["refresh 1", "refresh 2"]


@pytest.mark.asyncio
async def test_the_present_token_is_used_while_no_new_one_can_be_had() -> None:
    async def renew(_: Credentials) -> Credentials:
        raise Unavailable(grpc.StatusCode.UNAVAILABLE, "down")

    async with asyncio.TaskGroup() as tasks:
        tokens = Tokens(credentials(1), renew, tasks)
        tokens.renew_at_s = 0.0
        assert await tokens.current() == "access 1"


@pytest.mark.asyncio
async def test_a_refused_refresh_token_signs_out_everybody_who_waits() -> None:
    async def renew(_: Credentials) -> Credentials:
        raise SignedOut("revoked")

    async with asyncio.TaskGroup() as tasks:
        tokens = Tokens(credentials(1), renew, tasks)
        answers = await asyncio.gather(*(tokens.replace("access 1") for _ in range(2)), return_exceptions=True)

    assert [type(answer) for answer in answers] == [SignedOut, SignedOut]


def test_tokens_and_passwords_are_not_shown() -> None:
    assert "access" not in repr(credentials(1)).replace("access_expire", "")
