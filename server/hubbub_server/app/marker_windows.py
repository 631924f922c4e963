"""Makes few events of many marks: what a user says of a conversation within a window becomes one commit.

Theory of operation. The first call for a user and conversation opens a *window* of 2 s; what comes within it is merged
into one command. `commits_first`: the first command is committed at once, what comes later when the window ends, which
opens the next one. Otherwise the first one waits for the end of the window as well. Each caller hears when a command at
or past theirs is durable. Windows are tasks of this object, not of callers: a caller that goes away takes no mark
along. `settle` ends one window early: what is decided after it is decided after what was said before. `drain` ends all
windows at once, and none opens any more.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Generic, Protocol, Self, TypeVar

import structlog

from hubbub_server.domain.errors import HubbubError, OutcomeUnknown
from hubbub_server.domain.ids import ConversationId, UserId

WINDOW_S: Final = 2.0
_WINDOWS_MAX: Final = 10_000
"""Beyond that many open windows marks are committed as they come."""

log = structlog.get_logger()


class Mergeable(Protocol):
    """A command that moves a mark of one conversation forward."""

    @property
    def conversation_id(self) -> ConversationId: ...  # noqa: D102  # which one

    def merged(self, later: Self) -> Self:
        """Returns the command that stands for both."""

    def covers(self, other: Self) -> bool:
        """Tells whether another one asks for nothing more."""


C = TypeVar("C", bound=Mergeable)
A = TypeVar("A")


@dataclass(slots=True)
class _Window(Generic[C, A]):
    """What waits for the next commit, and what the last one was; None: nothing."""

    pending: C | None = None
    answer: "asyncio.Future[A]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    last: C | None = None
    last_answer: "asyncio.Future[A] | None" = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self) -> "tuple[C, asyncio.Future[A]] | None":
        """Takes what waits."""
        if self.pending is None:
            return None
        self.last, self.last_answer = self.pending, self.answer
        self.pending, self.answer = None, asyncio.get_running_loop().create_future()
        return self.last, self.last_answer

    def covers(self, command: C) -> bool:
        """Tells whether a command asks for nothing that the last one did not ask for, and nothing else waits."""
        return self.pending is None and self.last is not None and self.last.covers(command)


class MarkerWindows(Generic[C, A]):
    """Commits marks of one sort. Use as `async with`; the block owns the windows, and commits what waits at its end."""

    def __init__(
        self,
        commit: Callable[[UserId, C], Awaitable[A]],
        *,
        commits_first: bool,
        window_s: float = WINDOW_S,
        command_timeout_s: float = 8.0,
    ) -> None:
        """`commit` makes a command durable. `command_timeout_s` is how long that takes at most."""
        self._commit = commit
        self._commits_first = commits_first
        self._window_s = window_s
        self._timeout_s = command_timeout_s
        self._windows: dict[tuple[UserId, ConversationId], _Window[C, A]] = {}
        self._is_draining = False
        self._group = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        """Takes marks from now on."""
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Commits what waits."""
        self.drain()
        await self._group.__aexit__(kind, error, trace)

    def drain(self) -> None:
        """Ends all windows now: what waits in them is committed at once, and so is what still comes."""
        self._is_draining = True
        for window in self._windows.values():
            window.ended.set()

    async def settle(self, user_id: UserId, conversation_id: ConversationId) -> None:
        """Ends a window: returns when what was said of the conversation is durable, or not; who said it hears which."""
        window = self._windows.get((user_id, conversation_id))
        if window is None:
            return
        window.ended.set()
        answer = window.last_answer if window.pending is None else window.answer
        if answer is not None:
            await asyncio.wait([answer], timeout=self._timeout_s)

    async def take(self, user_id: UserId, command: C) -> A:
        """Returns the answer of the commit that `command` is part of.

        Raises:
            HubbubError: as the commit does.
            OutcomeUnknown: it took too long.
        """
        key = user_id, command.conversation_id
        window = self._windows.get(key)
        if window is None:
            if len(self._windows) >= _WINDOWS_MAX or self._is_draining:
                return await self._commit(user_id, command)
            window = self._windows[key] = _Window()
            self._group.create_task(self._run(key, window))
        if window.covers(command) and window.last_answer is not None:
            if window.last_answer.done():
                return await self._commit(user_id, command)  # costs no event
            answer = window.last_answer
        else:
            window.pending = command if window.pending is None else window.pending.merged(command)
            answer = window.answer
        try:
            async with asyncio.timeout(self._window_s + self._timeout_s):
                return await asyncio.shield(answer)
        except TimeoutError:
            raise OutcomeUnknown("the marker is not known to be durable yet") from None

    async def _run(self, key: tuple[UserId, ConversationId], window: _Window[C, A]) -> None:
        """Commits what waits, then lets others gather for a while; ends when nobody did."""
        try:
            if not self._commits_first:
                await self._wait(window)
            while (taken := window.take()) is not None:
                await self._answer(key[0], *taken)
                await self._wait(window)
        finally:
            del self._windows[key]

    async def _wait(self, window: _Window[C, A]) -> None:
        try:
            async with asyncio.timeout(self._window_s):
                await window.ended.wait()
        except TimeoutError:
            pass

    async def _answer(self, user_id: UserId, command: C, answer: "asyncio.Future[A]") -> None:
        try:
            answer.set_result(await self._commit(user_id, command))
        except Exception as error:  # who waits hears it; nobody may any more, which is no mistake
            if not isinstance(error, HubbubError):
                log.exception("marker not committed", user_id=user_id, conversation_id=command.conversation_id)
            answer.set_exception(error)
            answer.exception()
