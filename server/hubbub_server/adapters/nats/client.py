"""nats-py's client, with what it does not do for us: it connects again whatever happens, and costs less.

Theory of operation. nats-py has a queue and a task for each subscription, 5 KB and a turn of the event loop for each
message, and drops what its queue has no room for. Ours hand each message over in the read loop: whoever takes it must
not wait, nothing is dropped here, and while we are busy the socket is what fills up. The server ends a connection that
is read too slowly for long; that is noticed.
"""

from collections.abc import Callable
from typing import Any

import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.protocol.command import hpub_cmd

log = structlog.get_logger()


class Subscription:
    """What one subject is heard for. nats-py keeps it among its own, to subscribe again when it has connected again."""

    __slots__ = ("_id", "_subject", "take")

    # What nats-py looks at when it connects again or closes.
    _queue = ""
    _max_msgs = 0
    _received = 0
    _wait_for_msgs_task = None
    _message_iterator = None
    _pending_next_msgs_calls = None

    def __init__(self, sid: int, subject: str, take: Callable[[Msg], None]) -> None:
        """`sid` is its number on the connection."""
        self._id = sid
        self._subject = subject
        self.take = take

    @property
    def sid(self) -> int:
        """Its number on the connection."""
        return self._id


class LastingClient(Client):
    """nats-py's client, whose reconnecting no error ends, and which spends less on messages and their headers.

    uvloop raises RuntimeError for a write to a socket that the peer closed meanwhile, where asyncio says nothing.
    nats-py does not expect it: its task would be over, the status "reconnecting" for ever, and nobody told.
    """

    async def hear(self, subject: str, take: Callable[[Msg], None]) -> Subscription:
        """Subscribes; `take` gets each message in the read loop: it must not wait. Raises as nats-py's `subscribe`."""
        self._sid += 1
        subscription = Subscription(self._sid, subject, take)
        self._subs[subscription.sid] = subscription  # type: ignore[assignment]  # all that nats-py uses of one
        await self._send_subscribe(subscription)  # type: ignore[arg-type]
        return subscription

    async def hear_no_more(self, subscription: Subscription) -> None:
        """Ends a subscription. No call of its `take` begins after this was called; the server may hear of it later."""
        if self._subs.pop(subscription.sid, None) is not None and self.is_connected:
            await self._send_unsubscribe(subscription.sid)

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        subscription: Any = self._subs.get(sid)
        if not isinstance(subscription, Subscription):
            await super()._process_msg(sid, subject, reply, data, headers)
            return
        self.stats["in_msgs"] += 1
        self.stats["in_bytes"] += len(data)
        message = Msg(self, subject.decode(), reply.decode(), data, await self._process_headers(headers))
        try:
            subscription.take(message)
        except Exception:
            log.exception("message not taken", subject=message.subject)  # the next one is another matter

    async def _attempt_reconnect(self) -> None:
        while True:
            try:
                return await super()._attempt_reconnect()
            except RuntimeError as error:
                await self._error_cb(error)
                if self.is_closed:
                    return None
                self._status = Client.RECONNECTING

    @staticmethod
    def _parse_header_lines(raw: bytes) -> dict[str, str]:
        # A record has 14 headers; nats-py decodes and looks at each name and value by itself.
        headers = {}
        for line in raw.decode("utf-8", "replace").split("\r\n"):
            name, colon, value = line.partition(":")
            if colon:
                headers[name.strip()] = value.strip()
        return headers

    async def _send_publish(
        self, subject: str, reply: str, payload: bytes, payload_size: int, headers: dict[str, Any] | None
    ) -> None:
        # nats-py cleans header by header. Those that are clean, all of ours, are joined at once.
        lines = "".join([f"{name}: {value}\r\n" for name, value in (headers or {}).items()])
        if not headers or not lines.count("\r") == lines.count("\n") == len(headers):
            await super()._send_publish(subject, reply, payload, payload_size, headers)
            return
        self.stats["out_msgs"] += 1
        self.stats["out_bytes"] += payload_size
        await self._send_command(hpub_cmd(subject, reply, f"NATS/1.0\r\n{lines}\r\n".encode(), payload))
        if self._flush_queue is not None and self._flush_queue.empty():
            await self._flush_pending()
