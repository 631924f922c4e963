"""Single documents under compare-and-set, read from the leader: a stream that keeps the newest message of each subject.

The revision of a key is the sequence of its newest message, 0 when it has none. Keys are never deleted.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from hubbub_server.adapters.nats.connection import NatsConnection
from hubbub_server.adapters.nats.direct_get import MAX_SUBJECTS, read_latest
from hubbub_server.adapters.nats.errors import ApiRefusal
from hubbub_server.adapters.nats.records import EXPECTED_SEQUENCE, header_block_bytes
from hubbub_server.adapters.nats.streams import read_stream_info
from hubbub_server.domain.errors import LogUnavailable

_DIRECT_TRIES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A value and its revision."""

    value: bytes
    revision: int


class DocumentTooLarge(ValueError):
    """The document with its headers exceeds what a message carries. Nothing was sent."""


class Documents:
    """The documents of one stream. Methods repeat themselves for five seconds, then raise LogUnavailable."""

    def __init__(self, connection: NatsConnection, *, stream: str, prefix: str) -> None:
        """Names the stream, which keeps one message a subject, and what stands before the key in each subject."""
        self._connection = connection
        self._stream = stream
        self._prefix = prefix

    async def read(self, key: str) -> Document | None:
        """Reads a document from the leader."""
        return await self._read({"last_by_subj": self._subject(key)})

    async def read_newest(self) -> Document | None:
        """Reads the document that was written last, of any key, from the leader."""
        return await self._read({"last_by_subj": f"{self._prefix}>"})

    async def _read(self, query: Mapping[str, str]) -> Document | None:
        try:
            content = await self._connection.retry(
                partial(self._connection.call, f"STREAM.MSG.GET.{self._stream}", query)
            )
        except ApiRefusal as refusal:
            if refusal.is_no_message:
                return None
            raise
        message = content["message"]
        return Document(value=base64.b64decode(message.get("data", "")), revision=message["seq"])

    async def write(self, key: str, value: bytes, *, revision: int, ttl_s: int = 0) -> bool:
        """Writes a document if its revision is still `revision`; tells whether the key has this value now.

        A write whose answer was lost is repeated and recognised by its value.

        Raises:
            DocumentTooLarge: nothing was sent.
        """
        headers = {EXPECTED_SEQUENCE: str(revision)}
        if ttl_s > 0:
            headers["Nats-TTL"] = str(ttl_s)
        if (size := header_block_bytes(headers) + len(value)) > self._connection.max_payload_bytes:
            raise DocumentTooLarge(f"{size} bytes with headers, {self._connection.max_payload_bytes} are possible")

        async def attempt() -> bool:
            answer = await self._connection.request(self._subject(key), value, headers=headers)
            content = json.loads(answer.data)
            if "error" not in content:
                return True
            refusal = ApiRefusal.of(content["error"])
            if not refusal.is_conflict:
                raise refusal
            found = await self.read(key)
            if (found.revision if found else 0) == revision:
                raise LogUnavailable("another write of the key is in flight")
            return found is not None and found.value == value

        return await self._connection.retry(attempt)

    async def read_many(self, keys: Sequence[str]) -> Mapping[str, bytes]:
        """Reads the documents of many keys; those without one are left out."""
        documents: dict[str, bytes] = {}
        for start in range(0, len(keys), MAX_SUBJECTS):
            documents.update(await self._read_chunk(keys[start : start + MAX_SUBJECTS]))
        return documents

    async def _read_chunk(self, keys: Sequence[str]) -> Mapping[str, bytes]:
        info = await self._connection.retry(partial(read_stream_info, self._connection, self._stream))
        reached = info["state"]["last_seq"]
        subjects = {self._subject(key): key for key in keys}
        for _ in range(_DIRECT_TRIES if reached else 0):
            try:
                messages = await read_latest(self._connection, self._stream, list(subjects), reached=reached)
            except LogUnavailable:
                continue
            return {subjects[(message.headers or {})["Nats-Subject"]]: message.data for message in messages}
        found = {key: await self.read(key) for key in keys} if reached else {}
        return {key: document.value for key, document in found.items() if document}

    def _subject(self, key: str) -> str:
        return f"{self._prefix}{key}"
