"""What the user says: messages, waited for or shown at once as echoes, and that one is being typed."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

import uuid_utils

from hubbub_client import model
from hubbub_client.echoes import Echo, EchoBoard, EchoState
from hubbub_client.entities import TextEntity
from hubbub_client.errors import CallFailed, HubbubError, OutboxFull, SendTimedOut
from hubbub_client.outbox import Outbox

OUTBOX_MAX_MESSAGES: Final = 1_000


class Sending:
    """Puts messages into the outbox. What its methods promise is said where the client offers them.

    Args:
        outbox: sends, in order.
        echoes: keeps what was posted and is pending or failed.
        wake: called when the outbox has something.
        news: called when an echo changed.
        stopped: returns why the client is not open, None when it is.
    """

    def __init__(
        self,
        outbox: Outbox,
        echoes: EchoBoard,
        *,
        wake: Callable[[], None],
        news: Callable[[], None],
        stopped: Callable[[], HubbubError | None],
    ) -> None:
        self._outbox, self._echoes = outbox, echoes
        self._wake, self._news, self._stopped = wake, news, stopped
        self._room = asyncio.Semaphore(OUTBOX_MAX_MESSAGES)

    async def send(
        self,
        conversation_id: str,
        text: str,
        entities: Sequence[TextEntity],
        client_message_id: str | None,
        timeout_s: float | None,
    ) -> model.Sent:
        """Sends a message and waits for what becomes of it."""
        message_id = client_message_id or str(uuid_utils.uuid7())
        answer: asyncio.Future[model.Sent] = asyncio.get_running_loop().create_future()

        def settle(outcome: model.Sent | HubbubError) -> None:
            if answer.done():
                return
            if isinstance(outcome, HubbubError):
                answer.set_exception(outcome)
            else:
                answer.set_result(outcome)

        try:
            async with asyncio.timeout(timeout_s), self._room:
                self._require_open()
                self._outbox.add(conversation_id, message_id, text, datetime.now(UTC), settle, entities=entities)
                try:
                    self._wake()
                    return await answer
                finally:
                    self._outbox.withdraw(conversation_id, message_id)
        except TimeoutError as error:
            raise SendTimedOut(message_id) from error

    def post(
        self, conversation_id: str, text: str, entities: Sequence[TextEntity], client_message_id: str | None
    ) -> Echo:
        """Sends a message without waiting; returns its echo."""
        self._require_open()
        if len(self._echoes) >= OUTBOX_MAX_MESSAGES:
            raise OutboxFull(f"{OUTBOX_MAX_MESSAGES} messages wait already")
        echo = Echo(
            conversation_id=conversation_id,
            client_message_id=client_message_id or str(uuid_utils.uuid7()),
            text=text,
            entities=tuple(entities),
            post_time=datetime.now(UTC),
        )
        self._post(echo)
        return echo

    def retry(self, client_message_id: str) -> Echo:
        """Posts a message that failed once more."""
        failed = self._echoes.get(client_message_id)
        if failed is None or failed.state is not EchoState.FAILED:
            raise KeyError(client_message_id)
        echo = replace(failed, state=EchoState.PENDING, error=None)
        self._post(echo)
        return echo

    def discard(self, client_message_id: str) -> None:
        """Forgets or withdraws a posted message."""
        if (echo := self._echoes.discard(client_message_id)) is not None:
            self._outbox.withdraw(echo.conversation_id, client_message_id)

    def start_typing(self, conversation_id: str, kind: model.TypingKind, for_s: float) -> None:
        """Has it told that the user types."""
        self._outbox.typing.start(conversation_id, kind, for_s, time.monotonic())
        self._wake()

    def stop_typing(self, conversation_id: str) -> None:
        """Has it told that the user stopped."""
        self._outbox.typing.stop(conversation_id)
        self._wake()

    def _require_open(self) -> None:
        if (stopped := self._stopped()) is not None:
            raise stopped

    def _post(self, echo: Echo) -> None:
        def settle(outcome: model.Sent | HubbubError) -> None:
            if isinstance(outcome, (model.Sent, CallFailed)):
                self._echoes.settle(echo.client_message_id, outcome)
                self._news()

        conversation_id, message_id = echo.conversation_id, echo.client_message_id
        self._outbox.add(conversation_id, message_id, echo.text, echo.post_time, settle, entities=echo.entities)
        self._echoes.post(echo)
        self._wake()
        self._news()
