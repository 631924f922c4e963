"""What every PresenceRegistry promises: a share counts while its life is good, or for the grace after it was left."""

import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio

from hubbub_server.domain.ids import TopicId, UserId
from hubbub_server.domain.preferences import Status, StatusState
from hubbub_server.domain.presence import (
    NO_SESSIONS,
    Activity,
    NotedShare,
    Share,
    UserSessions,
)
from hubbub_server.ports.node_registry import NodeLife, NodeRegistry
from hubbub_server.ports.presence_registry import BATCH_MAX, PresenceRegistry
from tests.support.node_registries import GRACE_S, LEASE_S, OpenPresence
from tests.support.waiting import until_found

pytestmark = pytest.mark.asyncio

ALICE, BOB = (UserId(TopicId(f"u{name}")) for name in ("alice", "bob"))
ACTIVE = Share(activity=Activity.ACTIVE)
RICH = Share(
    activity=Activity.INACTIVE,
    status=Status(
        state=StatusState.DO_NOT_DISTURB, text='a "b" \\ 1 2\n', emoji="🧑‍🚀", expire_time_ms=1_800_000_000_000
    ),
    position=(7, 2**40),
    is_hidden=True,
)


class Stage:
    """Two nodes with a life each."""

    def __init__(self, opened: OpenPresence) -> None:
        self.nodes: NodeRegistry
        self.mine: PresenceRegistry
        self.theirs: PresenceRegistry
        self.nodes, self.mine, self.theirs = opened

    async def begin(self, life_id: str) -> None:
        await self.nodes.begin(NodeLife(life_id=life_id, node_id=life_id[0], address="10.0.0.1:1"))

    async def sessions(self, user_id: UserId) -> UserSessions:
        """Reads one user as another node."""
        return (await self.theirs.read([user_id]))[user_id]

    async def until_none_counts(self, user_id: UserId, *, kept: str = "") -> UserSessions:
        async def look() -> UserSessions | None:
            if kept:
                await self.nodes.renew(kept)
            sessions = await self.sessions(user_id)
            return None if sessions.shares else sessions

        return await until_found(look)


@pytest_asyncio.fixture
async def stage(presence: OpenPresence) -> AsyncIterator[Stage]:
    """Lives "a.1" and "b.1"."""
    stage = Stage(presence)
    await stage.begin("a.1")
    await stage.begin("b.1")
    yield stage


def shares_of(sessions: UserSessions) -> dict[str, Share]:
    return {life_id: noted.share for life_id, noted in sessions.shares.items()}


async def test_what_a_node_notes_is_seen_by_all_as_it_was(stage: Stage) -> None:
    before = await stage.theirs.look()
    news = await stage.mine.put("a.1", {ALICE: RICH, BOB: ACTIVE})
    await stage.theirs.put("b.1", {ALICE: ACTIVE})
    after = await stage.theirs.look()

    read = await stage.theirs.read([BOB, ALICE, UserId(TopicId("unobody"))])

    assert list(news or ()) == [ALICE, BOB]
    assert {user_id: shares_of(each) for user_id, each in read.items()} == {
        BOB: {"a.1": ACTIVE},
        ALICE: {"a.1": RICH, "b.1": ACTIVE},
        "unobody": {},
    }
    assert read[UserId(TopicId("unobody"))] == NO_SESSIONS
    noted = read[BOB].shares["a.1"]
    assert before.now_ms <= noted.noted_ms <= after.now_ms
    assert noted.until_ms == 0


async def test_news_is_only_what_is_another_share(stage: Stage) -> None:
    assert await stage.mine.put("a.1", {ALICE: ACTIVE}) == [ALICE]
    assert await stage.mine.put("a.1", {ALICE: ACTIVE, BOB: None}) == []
    assert await stage.mine.put("a.1", {ALICE: replace(ACTIVE, activity=Activity.INACTIVE), BOB: ACTIVE}) == [
        ALICE,
        BOB,
    ]
    assert await stage.mine.put("a.1", {ALICE: None}) == [ALICE]
    assert await stage.mine.put("a.1", {ALICE: None}) == []
    assert await stage.mine.put("a.1", {ALICE: ACTIVE}) == [ALICE]


async def test_what_was_left_counts_for_the_grace_and_then_only_tells_when(stage: Stage) -> None:
    """C39."""
    await stage.mine.put("a.1", {ALICE: RICH})
    await stage.mine.put("a.1", {ALICE: None})
    left_s = time.monotonic()

    in_grace = await stage.sessions(ALICE)
    after = await stage.until_none_counts(ALICE)

    (left,) = in_grace.shares.values()
    assert left.share == RICH
    assert left.until_ms - left.noted_ms == round(GRACE_S * 1000)
    assert time.monotonic() - left_s >= GRACE_S * 0.95
    assert after == UserSessions(seen_ms=left.noted_ms)


async def test_what_was_left_outlives_the_life_of_its_node(stage: Stage) -> None:
    """A node that is restarted gives its life back when its users have gone elsewhere, or are on their way."""
    await stage.mine.put("a.1", {ALICE: ACTIVE})
    await stage.mine.put("a.1", {ALICE: None})
    await stage.nodes.end("a.1")

    forgotten = await stage.theirs.forget("a.1")
    in_grace = await stage.sessions(ALICE)

    assert forgotten == []
    assert [left.share for left in in_grace.shares.values()] == [ACTIVE]


async def test_who_comes_back_within_the_grace_has_what_they_left_for_the_rest_of_it(stage: Stage) -> None:
    """C39: the first that a client says is not what it is used for."""
    silent = Share(activity=Activity.UNSTATED)
    await stage.mine.put("a.1", {ALICE: RICH})
    await stage.mine.put("a.1", {ALICE: None})
    await stage.mine.put("a.1", {ALICE: silent})

    back, left = sorted((await stage.sessions(ALICE)).shares.values(), key=lambda noted: noted.until_ms)

    assert (back.share, back.until_ms) == (silent, 0)
    assert left.share == RICH
    assert left.until_ms - left.noted_ms == round(GRACE_S * 1000)


async def test_a_share_counts_as_long_as_its_life_is_good(stage: Stage) -> None:
    """G7: nobody has to do anything for a dead node's users to be gone."""
    await stage.mine.put("a.1", {ALICE: ACTIVE})
    noted_ms = (await stage.sessions(ALICE)).shares["a.1"].noted_ms
    await stage.nodes.renew("a.1")
    renewed_s = time.monotonic()

    after = await stage.until_none_counts(ALICE, kept="b.1")

    assert time.monotonic() - renewed_s >= LEASE_S * 0.95
    assert after == UserSessions(seen_ms=noted_ms)
    look = await stage.theirs.look()
    assert look.alive == {"b.1"}


async def test_nothing_is_noted_under_a_life_that_is_over_or_unknown(stage: Stage) -> None:
    """G7: a node that was frozen must begin another life before it tells of its users."""
    await stage.nodes.end("a.1")

    assert await stage.mine.put("a.1", {ALICE: ACTIVE}) is None
    assert await stage.mine.put("nobody", {ALICE: ACTIVE}) is None
    assert await stage.sessions(ALICE) == NO_SESSIONS


async def test_noting_again_says_when_a_user_was_there_last(stage: Stage) -> None:
    await stage.mine.put("a.1", {ALICE: ACTIVE})
    first = (await stage.sessions(ALICE)).shares["a.1"].noted_ms

    async def note_later() -> int | None:
        await stage.mine.put("a.1", {ALICE: ACTIVE})
        noted_ms = (await stage.sessions(ALICE)).shares["a.1"].noted_ms
        return noted_ms if noted_ms > first else None

    later = await until_found(note_later)
    await stage.nodes.end("a.1")

    assert await stage.sessions(ALICE) == UserSessions(seen_ms=later)


async def test_a_life_that_is_over_is_forgotten_in_bounded_steps(stage: Stage) -> None:
    users = [UserId(TopicId(f"u{number}")) for number in range(BATCH_MAX + 10)]
    await stage.mine.put("a.1", dict.fromkeys(users[:BATCH_MAX], ACTIVE))
    await stage.mine.put("a.1", dict.fromkeys(users[BATCH_MAX:], ACTIVE))
    await stage.theirs.put("b.1", {users[0]: RICH})

    while_good = await stage.theirs.forget("a.1")
    await stage.nodes.end("a.1")
    before = await stage.sessions(users[0])
    steps = [await stage.theirs.forget("a.1") for _ in range(3)]

    assert while_good == []
    assert [len(step) for step in steps] == [BATCH_MAX, 10, 0]
    assert {user_id for step in steps for user_id in step} == set(users)
    assert await stage.sessions(users[0]) == before
    assert shares_of(before) == {"b.1": RICH}
    gone = await stage.sessions(users[1])
    assert gone.shares == {}
    assert gone.seen_ms > 0


async def test_a_look_says_who_lives_and_since_when_the_table_is_there(stage: Stage) -> None:
    first = await stage.mine.look()
    await stage.nodes.end("a.1")
    second = await stage.theirs.look()

    assert first.alive == {"a.1", "b.1"}
    assert second.alive == {"b.1"}
    assert first.born_ms == second.born_ms <= first.now_ms <= second.now_ms


async def test_a_share_that_is_replaced_takes_along_what_is_over(stage: Stage) -> None:
    """A user who wanders from node to node leaves no trail."""
    await stage.mine.put("a.1", {ALICE: ACTIVE})
    await stage.mine.put("a.1", {ALICE: None})
    (left,) = (await stage.sessions(ALICE)).shares.values()
    await stage.until_none_counts(ALICE, kept="b.1")

    await stage.theirs.put("b.1", {ALICE: ACTIVE})
    sessions = await stage.sessions(ALICE)

    assert sessions.seen_ms == left.noted_ms
    assert sessions.shares == {"b.1": NotedShare(share=ACTIVE, noted_ms=sessions.shares["b.1"].noted_ms)}
