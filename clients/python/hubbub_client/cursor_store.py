"""Where a client keeps its cursors between runs, so that it goes on where it stopped."""

import asyncio
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from hubbub_client.model import Cursor


class CursorStore(Protocol):
    """Keeps the cursors of one user.

    They cover what `events()` had yielded when the application asked for the next item. After a crash the newest
    items may come again; an application that must not see one twice compares `item.cursor` with what it stored in the
    same transaction as the item itself.

    The user's own topic may be in them twice: keep both, in their order. A store that keeps the last one only repeats
    some `ConversationJoined` and other events of the own topic after a restart; nothing is missed.
    """

    async def load(self, user_id: str) -> Sequence[Cursor]:
        """Returns what was saved last for this user; nothing when there is nothing."""

    async def save(self, user_id: str, cursors: Sequence[Cursor]) -> None:
        """Replaces what is saved, all or nothing. Called at most once a second, and when the client closes."""


class JsonCursorStore:
    """Keeps cursors in a JSON file, replaced as a whole. One file a user; two running clients must not share it.

    Args:
        path: the file; made when it is missing, its folder is not.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    async def load(self, user_id: str) -> list[Cursor]:
        """Returns the cursors in the file; nothing when it is missing or another user's."""
        return await asyncio.to_thread(self._read, user_id)

    async def save(self, user_id: str, cursors: Sequence[Cursor]) -> None:
        """Writes beside the file and renames."""
        await asyncio.to_thread(self._write, user_id, cursors)

    def _read(self, user_id: str) -> list[Cursor]:
        try:
            document = json.loads(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return []
        if document["user_id"] != user_id:
            return []
        return [Cursor(topic_id, epoch, position) for topic_id, epoch, position in document["cursors"]]

    def _write(self, user_id: str, cursors: Sequence[Cursor]) -> None:
        document = {
            "user_id": user_id,
            "cursors": [[cursor.topic_id, cursor.epoch, cursor.position] for cursor in cursors],
        }
        beside = self._path.with_name(f"{self._path.name}.new")
        beside.write_text(json.dumps(document), encoding="utf-8")
        os.replace(beside, self._path)
