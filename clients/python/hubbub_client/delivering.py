"""Marks as delivered what the application has processed, beside everything else: nothing waits or fails by it."""

import asyncio
import time
from contextlib import suppress
from typing import Final

from hubbub.chat.v1 import frame_pb2

from hubbub_client.conversations import Conversations
from hubbub_client.delivered_board import DeliveredBoard, Mark
from hubbub_client.errors import HubbubError, Unavailable
from hubbub_client.events import Event
from hubbub_client.unary import Unary

OUT_MAX: Final = 16  # calls at a time; each takes the 2 s for which the server waits for more
CLOSING_S: Final = 0.5  # enough for a request to arrive; it counts though its caller leaves
_RETRY_S: Final = 10.0


class Delivering:
    """Carries out what a board wants.

    Args:
        board: says what to tell.
        unary: makes calls.
        conversations: know their receipts_mode.
    """

    def __init__(self, board: DeliveredBoard, unary: Unary, conversations: Conversations) -> None:
        self._board, self._unary, self._conversations = board, unary, conversations
        self._wake, self._finished = asyncio.Event(), asyncio.Event()
        self._last_start_s = float("-inf")

    def receive(self, item: Event) -> None:
        """Takes an item that the application has processed."""
        was_waiting = self._board.is_waiting
        self._board.receive(item, time.monotonic())
        if self._board.is_waiting or was_waiting:
            self._wake.set()

    async def run(self) -> None:
        """Works until it is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._wake.clear()
                now_s = time.monotonic()
                for mark in self._board.take_due(now_s, OUT_MAX):
                    self._last_start_s = now_s
                    tasks.create_task(self._tell(mark))
                await self._wait(now_s)

    async def close(self) -> None:
        """Tells what waits, while `run` still works; takes half a second at most, whether it was answered or not."""
        now_s = time.monotonic()
        end_s = (now_s if self._board.is_waiting else self._last_start_s) + CLOSING_S
        self._board.hurry(now_s)
        self._wake.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, end_s - now_s)):
                while not self._board.is_idle:
                    self._finished.clear()
                    await self._finished.wait()

    async def _wait(self, now_s: float) -> None:
        """Waits until something else is wanted, one call is over, or what waits is due."""
        due_s = self._board.next_due_s()
        is_full = due_s is not None and due_s <= now_s  # it was not taken: the end of a call wakes
        with suppress(TimeoutError):
            async with asyncio.timeout(None if due_s is None or is_full else due_s - now_s):
                await self._wake.wait()

    async def _tell(self, mark: Mark) -> None:
        retry_s = None
        try:
            if mark.needs_mode:
                self._board.learn(await self._conversations.get(mark.conversation_id))
            if self._board.needs_mode(mark):
                retry_s = time.monotonic()
            elif self._board.is_wanted(mark):
                request = frame_pb2.MarkDeliveredRequest(
                    conversation_id=mark.conversation_id, message_number=mark.number
                )
                await self._unary.call(lambda stubs: stubs.markers.MarkDelivered, request)
        except Unavailable as error:
            retry_s = time.monotonic() + (error.retry_delay_s or _RETRY_S)
        except HubbubError:
            pass  # refused for good, or the client ends: the next message tries again
        self._board.finish(mark, retry_s=retry_s)
        self._wake.set()
        self._finished.set()
