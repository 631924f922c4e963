"""A long gRPC-Web stream through Envoy, over HTTP/1.1 and HTTP/2: an event arrives while the response is open.

Once at the start, and once after more than six minutes: longer than Envoy's default time-outs.
"""

import argparse
import asyncio
import struct
import tempfile
import time
import uuid
from pathlib import Path

import httpx
from hubbub.chat.v1 import chat_service_pb2, chat_service_pb2_grpc

from bench.crowd import User, create_group, register, send
from bench.figure import write_figure
from tests.soak.api import open_channel
from tests.soak.frames import read_frame
from tests.support.cluster import Cluster

OPEN_FOR_S = 370.0
WITHIN_S = 1.0
SILENCE_S = 50.0
_SUBSCRIBE = "/hubbub.chat.v1.ChatService/Subscribe"
_PREFIX_BYTES = 5


class WebReader:
    """Reads a stream as a browser does, frame by frame from the open response."""

    def __init__(self, port: int, user: User, *, http2: bool) -> None:
        """Names the edge and the reader."""
        self._url = f"http://127.0.0.1:{port}{_SUBSCRIBE}"
        self._user = user
        self._http2 = http2
        self.texts: dict[str, float] = {}
        self.news = asyncio.Event()
        self.is_open = asyncio.Event()
        self.version = ""
        self.heartbeats = 0
        self.ended_after_s: float | None = None

    async def run(self) -> None:
        """Reads until cancelled or the response ends."""
        hello = chat_service_pb2.Hello(instance_id=str(uuid.uuid4()))
        body = chat_service_pb2.SubscribeRequest(hello=hello).SerializeToString()
        headers = {"content-type": "application/grpc-web+proto", "x-grpc-web": "1", **dict(self._user.metadata)}
        begin = time.monotonic()
        silence = httpx.Timeout(SILENCE_S)
        async with httpx.AsyncClient(http1=not self._http2, http2=self._http2, timeout=silence) as client:
            request = client.stream("POST", self._url, headers=headers, content=struct.pack(">BI", 0, len(body)) + body)
            async with request as response:
                self.version = response.http_version
                buffered = b""
                async for chunk in response.aiter_raw():
                    buffered = self._take(buffered + chunk)
        self.ended_after_s = time.monotonic() - begin
        self.news.set()

    def _take(self, buffered: bytes) -> bytes:
        while len(buffered) >= _PREFIX_BYTES:
            flags, size = struct.unpack(">BI", buffered[:_PREFIX_BYTES])
            if len(buffered) < _PREFIX_BYTES + size:
                break
            payload, buffered = buffered[_PREFIX_BYTES : _PREFIX_BYTES + size], buffered[_PREFIX_BYTES + size :]
            if flags == 0:
                self._take_frame(payload)
        return buffered

    def _take_frame(self, payload: bytes) -> None:
        frame, _ = read_frame(payload)
        if frame.heads.complete:
            self.is_open.set()
        self.heartbeats += frame.HasField("heartbeat")
        for event in frame.events:
            self.texts[event.message_sent.message.content.text.text] = time.monotonic()
            self.news.set()

    async def seconds_until(self, text: str, sent: float) -> float:
        """Waits for a message; returns how long after `sent` it came."""
        async with asyncio.timeout(10):
            while text not in self.texts:
                if self.ended_after_s is not None:
                    raise RuntimeError(f"the response ended after {self.ended_after_s:.0f} s")
                self.news.clear()
                await self.news.wait()
        return max(0.0, self.texts[text] - sent)


async def measure(cluster: Cluster, open_for_s: float) -> None:
    """Measures and keeps the figure."""
    users = await register(cluster.port, 2)
    topic = await create_group(cluster.port, users[0], users[1:])
    readers = [WebReader(cluster.port, users[1], http2=http2) for http2 in (False, True)]
    waits: dict[str, list[float]] = {}
    async with open_channel(cluster.port) as channel, asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(reader.run()) for reader in readers]
        async with asyncio.timeout(20):
            for reader in readers:
                await reader.is_open.wait()
        begin = time.monotonic()
        stub = chat_service_pb2_grpc.ChatServiceStub(channel)
        for moment in ("at the start", "at the end"):
            sent = time.monotonic()
            await send(stub, users[0], topic, moment)
            waits[moment] = [await reader.seconds_until(moment, sent) for reader in readers]
            if moment == "at the start":
                await asyncio.sleep(open_for_s)
        open_s = time.monotonic() - begin
        for task in running:
            task.cancel()
    write_figure(
        "web_stream",
        "python -m bench.web_stream",
        {
            "what": "Subscribe by gRPC-Web through Envoy; time from send to the event in the open response",
            "versions": [reader.version for reader in readers],
            "open_s": round(open_s),
            "heartbeats": [reader.heartbeats for reader in readers],
            "at_the_start_ms": [round(wait * 1000) for wait in waits["at the start"]],
            "at_the_end_ms": [round(wait * 1000) for wait in waits["at the end"]],
        },
        holds=open_s > 360 and max(map(max, waits.values())) < WITHIN_S,
    )


async def main() -> None:
    """Runs an instance and measures."""
    parser = argparse.ArgumentParser(prog="python -m bench.web_stream", description=__doc__)
    parser.add_argument("--seconds", type=float, default=OPEN_FOR_S)
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory(prefix="hubbub-bench-") as folder:
        async with Cluster(Path(folder), nodes=1) as cluster:
            await measure(cluster, seconds)


if __name__ == "__main__":
    asyncio.run(main())
