"""Finding people."""

import pytest

from hubbub_server.app.users import Users
from hubbub_server.domain.errors import InvalidField, UserNotFound
from hubbub_server.domain.ids import TopicId, UserId
from hubbub_server.ports.accounts import Account
from tests.support.fakes.accounts import FakeAccountStore

ALICE = UserId(TopicId("u1"))
BOB = UserId(TopicId("u2"))


async def make_users() -> Users:
    accounts = FakeAccountStore()
    for user_id, name in ((ALICE, "alice"), (BOB, "bob")):
        await accounts.create(
            Account(user_id=user_id, login_name=name, display_name=name.title(), password_hash="", create_time_ms=1)
        )
    return Users(accounts=accounts)


@pytest.mark.asyncio
async def test_a_name_is_found_in_any_case() -> None:
    users = await make_users()
    assert (await users.lookup("aLiCe")).user_id == ALICE


@pytest.mark.asyncio
@pytest.mark.parametrize("name", ["carol", "ali", "alic"])
async def test_a_name_of_nobody_is_not_found(name: str) -> None:
    users = await make_users()
    with pytest.raises(UserNotFound):
        await users.lookup(name)


@pytest.mark.asyncio
@pytest.mark.parametrize("name", ["", "al", "a" * 33, "al ice", "älice", "\u212aelvin", "alice\n"])
async def test_what_can_be_no_name_is_a_bad_field(name: str) -> None:
    users = await make_users()
    with pytest.raises(InvalidField):
        await users.lookup(name)


@pytest.mark.asyncio
async def test_users_come_in_the_order_asked_once_each_without_strangers() -> None:
    users = await make_users()
    found = await users.batch_get([BOB, "u404", "not an id", ALICE, BOB])
    assert [user.user_id for user in found] == [BOB, ALICE]


@pytest.mark.asyncio
@pytest.mark.parametrize(("count", "is_good"), [(0, False), (1, True), (200, True), (201, False)])
async def test_the_number_of_ids_has_bounds(count: int, is_good: bool) -> None:
    users = await make_users()
    ids = [f"u{number}" for number in range(count)]
    if is_good:
        await users.batch_get(ids)
    else:
        with pytest.raises(InvalidField):
            await users.batch_get(ids)
