"""Saves what the application has processed, while the client runs and when it closes."""

import asyncio
from typing import Final

from hubbub_client.cursor_store import CursorStore
from hubbub_client.model import Cursor
from hubbub_client.sync_engine import SyncEngine

_INTERVAL_S: Final = 1.0


class CursorKeeper:
    """Keeps one store up to date with one engine.

    Args:
        store: where to.
        engine: knows what was processed.
        user_id: the signed-in user.
    """

    def __init__(self, store: CursorStore, engine: SyncEngine, user_id: str) -> None:
        self._store, self._engine, self._user_id = store, engine, user_id
        self._saved = list[Cursor]()

    async def run(self) -> None:
        """Saves once a second until it is cancelled."""
        while True:
            await asyncio.sleep(_INTERVAL_S)
            await self.save()

    async def save(self) -> None:
        """Saves, if anything was processed since the last time."""
        cursors = self._engine.processed_cursors()
        if cursors and cursors != self._saved:
            await self._store.save(self._user_id, cursors)
            self._saved = cursors
