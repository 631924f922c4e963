"""What a user shows, to whom, and how often that is told."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubbub_server.domain.ids import ConversationId, TopicId, UserId
from hubbub_server.domain.preferences import PresenceVisibility, Status, StatusState
from hubbub_server.domain.presence import (
    CHANGE_EVERY_S,
    CHANGES_AT_ONCE,
    NO_SESSIONS,
    NO_STATUS,
    Activity,
    ChangeBudget,
    NotedShare,
    PresenceState,
    Share,
    Shown,
    UserFacts,
    UserSessions,
    changes_at_ms,
    is_news,
    may_see,
    shown,
)

NOW_MS = 1_800_000_000_000
ALICE, BOB = (UserId(TopicId(f"u{name}")) for name in ("alice", "bob"))
TALK, ROOM = (ConversationId(TopicId(f"c{name}")) for name in ("talk", "room"))

ACTIVE, INACTIVE, UNSTATED = Activity.ACTIVE, Activity.INACTIVE, Activity.UNSTATED
AUTOMATIC = StatusState.AUTOMATIC
OFFLINE, ONLINE, AWAY = PresenceState.OFFLINE, PresenceState.ONLINE, PresenceState.AWAY
BUSY = PresenceState.DO_NOT_DISTURB


def sessions(*activities: Activity, status: Status = NO_STATUS) -> UserSessions:
    """Returns a user with a share on one node for each activity."""
    return UserSessions(
        shares={
            f"n{number}.1": NotedShare(share=Share(activity=activity, status=status), noted_ms=NOW_MS - 1_000)
            for number, activity in enumerate(activities)
        },
        seen_ms=NOW_MS - 60_000,
    )


@pytest.mark.parametrize(
    ("activities", "manual", "state"),
    [
        ((), AUTOMATIC, OFFLINE),
        ((), StatusState.ONLINE, OFFLINE),
        ((), StatusState.DO_NOT_DISTURB, OFFLINE),
        ((ACTIVE,), AUTOMATIC, ONLINE),
        ((UNSTATED,), AUTOMATIC, ONLINE),
        ((INACTIVE,), AUTOMATIC, AWAY),
        ((INACTIVE, INACTIVE), AUTOMATIC, AWAY),
        ((INACTIVE, ACTIVE), AUTOMATIC, ONLINE),
        ((INACTIVE, UNSTATED), AUTOMATIC, AWAY),
        ((ACTIVE, UNSTATED), AUTOMATIC, ONLINE),
        ((INACTIVE,), StatusState.ONLINE, ONLINE),
        ((ACTIVE,), StatusState.AWAY, AWAY),
        ((ACTIVE,), StatusState.DO_NOT_DISTURB, BUSY),
        ((INACTIVE,), StatusState.DO_NOT_DISTURB, BUSY),
    ],
)
def test_the_ladder(activities: tuple[Activity, ...], manual: StatusState, state: PresenceState) -> None:
    assert shown(sessions(*activities, status=Status(state=manual)), NOW_MS).state is state


@pytest.mark.parametrize("manual", [each for each in StatusState if each is not AUTOMATIC])
def test_what_is_set_by_hand_ends_when_it_expires(manual: StatusState) -> None:
    status = Status(state=manual, text="at lunch", emoji="🍜", expire_time_ms=NOW_MS)
    lunch = sessions(ACTIVE, status=status)

    before, after = shown(lunch, NOW_MS - 1), shown(lunch, NOW_MS)

    assert (before.text, before.emoji, before.expire_time_ms) == ("at lunch", "🍜", NOW_MS)
    assert after == Shown(state=ONLINE)
    assert changes_at_ms(lunch, NOW_MS - 1) == NOW_MS
    assert changes_at_ms(lunch, NOW_MS) == 0


def test_the_status_is_that_of_the_share_which_knows_the_newest() -> None:
    old = Share(activity=ACTIVE, status=Status(text="old"), position=(1, 9))
    new = Share(activity=INACTIVE, status=Status(text="new"), position=(2, 1))
    both = UserSessions(shares={"a": NotedShare(share=new, noted_ms=1), "b": NotedShare(share=old, noted_ms=2)})

    assert shown(both, NOW_MS) == Shown(state=ONLINE, text="new")


def test_who_is_offline_shows_nothing_but_when_they_were_seen() -> None:
    assert shown(NO_SESSIONS, NOW_MS) == Shown(state=OFFLINE)
    assert shown(UserSessions(seen_ms=5), NOW_MS) == Shown(state=OFFLINE, last_seen_ms=5)


def test_what_was_left_counts_until_the_grace_is_over() -> None:
    """C39."""
    share = Share(activity=INACTIVE)
    left = UserSessions(shares={"a.1": NotedShare(share=share, noted_ms=NOW_MS - 10_000, until_ms=NOW_MS)})

    assert shown(left, NOW_MS - 1) == Shown(state=AWAY)
    assert shown(left, NOW_MS) == Shown(state=OFFLINE, last_seen_ms=NOW_MS - 10_000)
    assert changes_at_ms(left, NOW_MS - 1) == NOW_MS


def test_lives_that_are_over_take_their_shares_along_but_not_what_was_left_there() -> None:
    share = Share(activity=ACTIVE)
    both = UserSessions(
        shares={
            "a.1": NotedShare(share=share, noted_ms=NOW_MS - 3),
            "b.1": NotedShare(share=share, noted_ms=NOW_MS - 5, until_ms=NOW_MS + 1),
        },
        seen_ms=7,
    )

    assert both.without(frozenset({"c.1"})) is both
    left = both.without(frozenset({"a.1", "b.1"}))
    assert set(left.shares) == {"b.1"}
    assert left.seen_ms == NOW_MS - 3


def test_who_is_invisible_has_no_share() -> None:
    facts = UserFacts(status=Status(state=StatusState.INVISIBLE, expire_time_ms=NOW_MS))

    assert facts.share(ACTIVE, NOW_MS - 1) is None
    assert facts.share(ACTIVE, NOW_MS) == Share(activity=ACTIVE)


shares = st.builds(
    NotedShare,
    share=st.builds(
        Share,
        activity=st.sampled_from(Activity),
        status=st.builds(
            Status,
            state=st.sampled_from([each for each in StatusState if each is not StatusState.INVISIBLE]),
            text=st.sampled_from(("", "away")),
            expire_time_ms=st.sampled_from((None, NOW_MS - 5, NOW_MS, NOW_MS + 5)),
        ),
        position=st.tuples(st.integers(1, 2), st.integers(0, 3)),
    ),
    noted_ms=st.integers(NOW_MS - 20, NOW_MS),
    until_ms=st.sampled_from((0, NOW_MS - 5, NOW_MS, NOW_MS + 5)),
)
any_sessions = st.builds(
    UserSessions,
    shares=st.dictionaries(st.sampled_from("abcd"), shares, max_size=4),
    seen_ms=st.integers(0, NOW_MS),
)


@given(any_sessions, st.integers(0, 20))
def test_between_the_times_that_are_named_nothing_changes_by_itself(user: UserSessions, later_ms: int) -> None:
    change_ms = changes_at_ms(user, NOW_MS)
    if not change_ms or NOW_MS + later_ms < change_ms:
        assert shown(user, NOW_MS) == shown(user, NOW_MS + later_ms)


@given(any_sessions)
def test_offline_and_shares_exclude_each_other(user: UserSessions) -> None:
    seen = shown(user, NOW_MS)

    counts = any(not each.until_ms or each.until_ms > NOW_MS for each in user.shares.values())
    assert (seen.state is OFFLINE) == (not counts)
    assert seen.state is not OFFLINE or (seen.text, seen.emoji, seen.expire_time_ms) == ("", "", None)
    assert seen.state is OFFLINE or seen.last_seen_ms == 0


@given(any_sessions, st.sets(st.sampled_from("abcd")), st.sets(st.sampled_from("abcd")))
def test_in_which_order_lives_end_does_not_matter(user: UserSessions, some: set[str], others: set[str]) -> None:
    one = user.without(frozenset(some)).without(frozenset(others))

    assert one == user.without(frozenset(some | others))
    assert not (set(one.shares) & (some | others)) or all(
        one.shares[life].until_ms for life in set(one.shares) & (some | others)
    )


# ---- who may know


def facts(
    visibility: PresenceVisibility = PresenceVisibility.EVERYONE, *, talks: bool = True, blocks: UserId | None = None
) -> UserFacts:
    """Returns somebody who is in a conversation with the other one, or is not."""
    return UserFacts(
        visibility=visibility,
        blocked=frozenset({blocks} if blocks else ()),
        conversations=frozenset({TALK} if talks else ()),
    )


EVERYONE, CONTACTS, NOBODY = PresenceVisibility.EVERYONE, PresenceVisibility.CONTACTS, PresenceVisibility.NOBODY


@pytest.mark.parametrize(
    ("watcher", "target", "stranger_sees", "contact_sees"),
    [
        (EVERYONE, EVERYONE, True, True),
        (EVERYONE, CONTACTS, False, True),
        (EVERYONE, NOBODY, False, False),
        (CONTACTS, EVERYONE, False, True),
        (CONTACTS, CONTACTS, False, True),
        (CONTACTS, NOBODY, False, False),
        (NOBODY, EVERYONE, False, False),
        (NOBODY, CONTACTS, False, False),
        (NOBODY, NOBODY, False, False),
    ],
)
def test_who_may_see(
    watcher: PresenceVisibility, target: PresenceVisibility, stranger_sees: bool, contact_sees: bool
) -> None:
    own = facts(watcher)

    assert may_see(ALICE, own, BOB, facts(target)) is contact_sees
    elsewhere = replace(facts(target), conversations=frozenset({ROOM}))
    assert may_see(ALICE, own, BOB, elsewhere) is stranger_sees
    assert may_see(ALICE, own, BOB, facts(target, talks=False)) is stranger_sees


def test_who_blocks_is_not_seen_and_does_not_see() -> None:
    assert not may_see(ALICE, facts(blocks=BOB), BOB, facts())
    assert not may_see(BOB, facts(), ALICE, facts(blocks=BOB))


@pytest.mark.parametrize("visibility", PresenceVisibility)
def test_everybody_may_see_themselves(visibility: PresenceVisibility) -> None:
    own = facts(visibility, talks=False, blocks=ALICE)

    assert may_see(ALICE, own, ALICE, own)


@given(
    *[
        st.builds(
            facts, st.sampled_from(PresenceVisibility), talks=st.booleans(), blocks=st.sampled_from((ALICE, BOB, None))
        )
    ]
    * 2
)
def test_seeing_is_mutual(alice: UserFacts, bob: UserFacts) -> None:
    assert may_see(ALICE, alice, BOB, bob) == may_see(BOB, bob, ALICE, alice)


# ---- flapping

THERE, GONE = Shown(state=ONLINE), Shown(state=OFFLINE)


def test_a_few_changes_are_told_at_once_then_one_a_minute() -> None:
    budget = ChangeBudget(at_s=0.0)

    waits = [budget.take(THERE, replace(THERE, text=str(n)), 0.0) for n in range(CHANGES_AT_ONCE + 1)]

    assert waits == [0.0] * CHANGES_AT_ONCE + [CHANGE_EVERY_S]
    assert budget.take(GONE, THERE, CHANGE_EVERY_S - 1) == pytest.approx(1)
    assert budget.take(GONE, THERE, CHANGE_EVERY_S) == 0


@given(st.floats(1, 100))
def test_whoever_flaps_is_told_of_once_a_minute_and_ends_as_gone(pause_s: float) -> None:
    budget, now_s, told, last = ChangeBudget(at_s=0.0), 0.0, 0, GONE
    minutes = 60
    while now_s < minutes * 60:
        for after in (THERE, replace(GONE, last_seen_ms=round(now_s * 1000))):
            now_s += pause_s
            if is_news(last, after) and budget.take(last, after, now_s) == 0:
                told, last = told + 1, after
        assert last.state is OFFLINE

    assert told <= CHANGES_AT_ONCE + minutes + 2
