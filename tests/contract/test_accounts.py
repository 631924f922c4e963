"""What every AccountStore and DeviceSessionStore promises: one owner a name, compare-and-set, exact reads."""

import asyncio
import secrets
import time
from dataclasses import replace

import pytest

from hubbub_server.domain.errors import NameTaken
from hubbub_server.domain.ids import DeviceSessionId, TopicId, UserId
from hubbub_server.ports.accounts import Account, DeviceSession, Profile
from tests.support.account_stores import OpenAccounts

pytestmark = pytest.mark.asyncio


def new_account(login_name: str = "") -> Account:
    name = login_name or f"n{secrets.token_hex(8)}"
    return Account(
        user_id=UserId(TopicId("u" + secrets.token_hex(13))),
        login_name=name,
        display_name=f"Ünï {name} 🎈",
        password_hash="$argon2id$v=19$m=65536,t=3,p=4$c2FsdA$aGFzaA",
        create_time_ms=1_700_000_000_123,
    )


def new_session() -> DeviceSession:
    return DeviceSession(
        device_session_id=DeviceSessionId("d" + secrets.token_hex(13)),
        user_id=UserId(TopicId("u" + secrets.token_hex(13))),
        generation=1,
        previous_good_until_ms=0,
        is_confirmed=True,
        is_revoked=False,
        expire_time_ms=int(time.time() * 1000) + 60_000,
    )


def profile_of(account: Account) -> Profile:
    return Profile(user_id=account.user_id, login_name=account.login_name, display_name=account.display_name)


async def test_a_created_account_is_found_by_its_name_on_every_node(account_stores: OpenAccounts) -> None:
    for _ in range(20):
        account = new_account()
        await account_stores.accounts.create(account)

        assert await account_stores.other_accounts.find(account.login_name) == account
        profiles = await account_stores.other_accounts.read_profiles([account.user_id])
        assert profiles == {account.user_id: profile_of(account)}


@pytest.mark.parametrize("form", ["{}", ".{}", "{}.", "..{}..", "{}-_.-", "a.{}", "0{}"])
async def test_every_login_name_can_be_an_account(account_stores: OpenAccounts, form: str) -> None:
    account = new_account(form.format(secrets.token_hex(6)))
    await account_stores.accounts.create(account)

    assert await account_stores.accounts.find(account.login_name) == account


async def test_names_that_differ_in_their_marks_are_different(account_stores: OpenAccounts) -> None:
    stem = secrets.token_hex(6)
    accounts = [new_account(stem + mark) for mark in (".a", "_a", "-a", "a", ".", "_", "-")]
    for account in accounts:
        await account_stores.accounts.create(account)

    assert [await account_stores.accounts.find(account.login_name) for account in accounts] == accounts


@pytest.mark.parametrize("name", ["", "nobody-has-this", "Ünï", "with space", "star*", "a>b", "a=b"])
async def test_a_name_without_an_account_finds_nothing(account_stores: OpenAccounts, name: str) -> None:
    assert await account_stores.accounts.find(name) is None


async def test_a_name_has_one_owner(account_stores: OpenAccounts) -> None:
    account = new_account()
    await account_stores.accounts.create(account)

    with pytest.raises(NameTaken):
        await account_stores.other_accounts.create(new_account(account.login_name))

    assert await account_stores.accounts.find(account.login_name) == account


async def test_of_many_who_want_a_name_at_once_one_gets_it(account_stores: OpenAccounts) -> None:
    for _ in range(5):
        first = new_account()
        wanted = [first, *(new_account(first.login_name) for _ in range(7))]
        stores = [account_stores.accounts, account_stores.other_accounts] * 4

        outcomes = await asyncio.gather(
            *(store.create(account) for store, account in zip(stores, wanted, strict=True)), return_exceptions=True
        )

        winners = [account for account, outcome in zip(wanted, outcomes, strict=True) if outcome is None]
        assert [type(outcome) for outcome in outcomes if outcome is not None] == [NameTaken] * 7
        assert [await account_stores.accounts.find(first.login_name)] == winners


async def test_creating_the_same_account_again_is_no_conflict(account_stores: OpenAccounts) -> None:
    """After an unknown outcome the caller may repeat itself."""
    account = new_account()
    await account_stores.accounts.create(account)

    await account_stores.other_accounts.create(account)

    assert await account_stores.accounts.find(account.login_name) == account


async def test_500_profiles_are_read_at_once_and_unknown_ids_left_out(account_stores: OpenAccounts) -> None:
    accounts = [new_account() for _ in range(490)]
    async with asyncio.TaskGroup() as tasks:
        for account in accounts:
            tasks.create_task(account_stores.accounts.create(account))
    unknown = [new_account().user_id for _ in range(10)]

    profiles = await account_stores.other_accounts.read_profiles([a.user_id for a in accounts] + unknown)

    assert profiles == {account.user_id: profile_of(account) for account in accounts}
    assert await account_stores.accounts.read_profiles(unknown) == {}
    assert await account_stores.accounts.read_profiles([]) == {}


async def test_a_session_is_read_as_it_was_written_on_every_node(account_stores: OpenAccounts) -> None:
    session = new_session()
    await account_stores.sessions.create(session)

    found = await account_stores.other_sessions.read(session.device_session_id)

    assert found is not None
    assert found[0] == session
    assert await account_stores.sessions.read(new_session().device_session_id) is None


async def test_an_update_needs_the_current_revision(account_stores: OpenAccounts) -> None:
    session = new_session()
    await account_stores.sessions.create(session)
    found = await account_stores.sessions.read(session.device_session_id)
    assert found is not None
    second = replace(session, generation=2, is_confirmed=False)
    third = replace(session, generation=3, is_revoked=True)

    assert await account_stores.sessions.update(second, revision=found[1])
    assert not await account_stores.other_sessions.update(third, revision=found[1])

    found = await account_stores.other_sessions.read(session.device_session_id)
    assert found is not None
    assert found[0] == second
    assert await account_stores.other_sessions.update(third, revision=found[1])
    found = await account_stores.sessions.read(session.device_session_id)
    assert found is not None
    assert found[0] == third


async def test_of_concurrent_updates_one_wins(account_stores: OpenAccounts) -> None:
    session = new_session()
    await account_stores.sessions.create(session)
    for generation in range(2, 7):
        found = await account_stores.sessions.read(session.device_session_id)
        assert found is not None
        stores = [account_stores.sessions, account_stores.other_sessions] * 4
        updates = [replace(session, generation=generation * 100 + index) for index in range(8)]

        outcomes = await asyncio.gather(
            *(store.update(update, revision=found[1]) for store, update in zip(stores, updates, strict=True))
        )

        assert outcomes.count(True) == 1
        found = await account_stores.other_sessions.read(session.device_session_id)
        assert found is not None
        assert found[0] == updates[outcomes.index(True)]


async def test_a_session_that_expired_long_ago_can_still_be_written(account_stores: OpenAccounts) -> None:
    """Clocks of tests and of wrong machines: expiry is the caller's to judge, keeping a little longer is harmless."""
    session = replace(new_session(), expire_time_ms=1)
    await account_stores.sessions.create(session)

    found = await account_stores.sessions.read(session.device_session_id)

    assert found is not None
    assert found[0] == session
