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
from hubbub_server.adapters.nats.records import EXPECTED_SEQUENCE, SEQUENCE, header_block_bytes
from hubbub_server.adapters.nats.streams import get_message, read_stream_info
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
        message = await self._connection.retry(partial(get_message, self._connection, self._stream, query))
        if message is None:
            return None
        return Document(value=base64.b64decode(message.get("data", "")), revision=message["seq"])

    async def write(self, key: str, value: bytes, *, revision: int, ttl_s: int = 0) -> bool:
        """Writes a document if its revision is still `revision`; tells whether the key has this value now.

        A write whose answer was lost is repeated and recognised by its value.

        Raises:
            DocumentTooLarge: nothing was sent.
        """
        return await self.replace(key, value, revision=revision, ttl_s=ttl_s) is not None

    async def replace(self, key: str, value: bytes, *, revision: int, ttl_s: int = 0) -> int | None:
        """Does as `write` and returns the revision that the value has; None when the key has another one."""
        headers = {EXPECTED_SEQUENCE: str(revision)} | _ttl(ttl_s)

        async def attempt() -> int | None:
            try:
                return await self._publish(key, value, headers)
            except ApiRefusal as refusal:
                if not refusal.is_conflict:
                    raise
            found = await self.read(key)
            if (found.revision if found else 0) == revision:
                raise LogUnavailable("another write of the key is in flight")
            return found.revision if found is not None and found.value == value else None

        return await self._connection.retry(attempt)

    async def put(self, key: str, value: bytes, *, ttl_s: int = 0) -> None:
        """Writes a document whatever its revision is. Raises DocumentTooLarge."""
        await self._connection.retry(partial(self._publish, key, value, _ttl(ttl_s)))

    async def _publish(self, key: str, value: bytes, headers: dict[str, str]) -> int:
        if (size := header_block_bytes(headers) + len(value)) > self._connection.max_payload_bytes:
            raise DocumentTooLarge(f"{size} bytes with headers, {self._connection.max_payload_bytes} are possible")
        answer = await self._connection.request(self._subject(key), value, headers=headers)
        content = json.loads(answer.data)
        if "error" in content:
            raise ApiRefusal.of(content["error"])
        return int(content["seq"])

    async def read_all(self) -> Mapping[str, Document]:
        """Reads all documents of a stream that has at most 1,000."""

        async def attempt() -> Mapping[str, Document]:
            reached = await self._last_revision()
            if reached == 0:
                return {}
            messages = await read_latest(self._connection, self._stream, [f"{self._prefix}>"], reached=reached)
            documents: dict[str, Document] = {}
            for message in messages:
                headers = message.headers or {}
                key = headers["Nats-Subject"].removeprefix(self._prefix)
                documents[key] = Document(value=message.data, revision=int(headers[SEQUENCE]))
            return documents

        return await self._connection.retry(attempt)

    async def _last_revision(self) -> int:
        info = await read_stream_info(self._connection, self._stream)
        return int(info["state"]["last_seq"])

    async def read_many(self, keys: Sequence[str]) -> Mapping[str, bytes]:
        """Reads the documents of many keys; those without one are left out."""
        documents: dict[str, bytes] = {}
        for start in range(0, len(keys), MAX_SUBJECTS):
            documents.update(await self._read_chunk(keys[start : start + MAX_SUBJECTS]))
        return documents

    async def _read_chunk(self, keys: Sequence[str]) -> Mapping[str, bytes]:
        reached = await self._connection.retry(self._last_revision)
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


def _ttl(ttl_s: int) -> dict[str, str]:
    return {"Nats-TTL": str(ttl_s)} if ttl_s > 0 else {}
