"""Cursors on disk."""

from pathlib import Path

import pytest

from hubbub_client import Cursor, JsonCursorStore
from hubbub_client.backoff import Backoff


@pytest.mark.asyncio
async def test_saved_cursors_come_back_for_the_same_user_only(tmp_path: Path) -> None:
    path = tmp_path / "cursors.json"
    cursors = [Cursor("c1", 1, 7), Cursor("u1", 2, 3)]
    assert await JsonCursorStore(path).load("u1") == []

    await JsonCursorStore(path).save("u1", [Cursor("c1", 1, 6)])
    await JsonCursorStore(path).save("u1", cursors)

    assert await JsonCursorStore(path).load("u1") == cursors
    assert await JsonCursorStore(path).load("u2") == []
    assert not path.with_name("cursors.json.new").exists()


def test_waits_double_up_to_the_maximum_and_are_never_nothing() -> None:
    backoff = Backoff(0.5, 30.0, lambda: 1.0)
    assert [backoff.next_s() for _ in range(8)] == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    backoff.reset()
    assert backoff.next_s() == 0.5
    assert Backoff(0.5, 30.0, lambda: 0.0).next_s() > 0
