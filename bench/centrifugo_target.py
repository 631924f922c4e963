"""Centrifugo v6 as a target: streams by uni_grpc, sends by its gRPC API, from ngh2 as ours are.

`in_valkey`: with history in Valkey (AOF, fsync always), which is as near to our ack as it comes: the publication is on
disk before the answer. Otherwise its memory engine without history: nothing is kept, which is the least it can do.
Centrifugo is built by Go from its module, once, into var/bin.
"""

import asyncio
import base64
import json
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from bench.figure import ROOT
from bench.h2_client import CallFailed, GrpcConnection
from bench.target import StreamOpening
from bench.wires import field
from hubbub_server.supervisor.leash import leashed
from hubbub_server.supervisor.ports import find_free
from tests.support.valkey import valkey_server

MODULE: Final = "github.com/centrifugal/centrifugo/v6"
VERSION: Final = "v6.9.1"
_BIN: Final = ROOT / "var" / "bin"
_CONSUME: Final = "/centrifugal.centrifugo.unistream.CentrifugoUniStream/Consume"
_PUBLISH: Final = "/centrifugal.centrifugo.api.CentrifugoApi/Publish"
_CHANNEL: Final = "bench"
_READY_S: Final = 20.0
_STOP_S: Final = 5.0
_HISTORY_SIZE: Final = 1_000


def is_possible() -> bool:
    """Tells whether Centrifugo is there or can be built."""
    return _binary().exists() or shutil.which("go") is not None


def build() -> None:
    """Builds Centrifugo, if it is not there; blocks, a minute or two."""
    if not _binary().exists():
        _BIN.mkdir(parents=True, exist_ok=True)
        command = ["go", "install", f"{MODULE}@{VERSION}"]
        subprocess.run(["env", f"GOBIN={_BIN}", "GOFLAGS=-buildvcs=false", *command], check=True)


def _binary() -> Path:
    return _BIN / "centrifugo"


class CentrifugoTarget:
    """A running Centrifugo. Implements Target."""

    def __init__(self, pid: int, others: Collection[int], stream_port: int, api: GrpcConnection) -> None:
        """Made by `centrifugo`."""
        self.delivering: Collection[int] = (pid,)
        self.others = others
        self._stream_port = stream_port
        self._api = api

    @property
    def opening(self) -> StreamOpening:
        """See Target. ConnectRequest: subs 3 (map: key 1, value 2)."""
        request = field(3, field(1, _CHANNEL.encode()) + field(2, b""))
        return StreamOpening(
            port=self._stream_port,
            path=_CONSUME,
            metadata=((),),
            first_message=base64.b64encode(request).decode(),
            has_one_request=True,
            wire="centrifugo",
        )

    async def send(self, text: str) -> None:
        """See Target. PublishRequest: channel 1, data 2 (JSON); PublishResponse: error 1."""
        request = field(1, _CHANNEL.encode()) + field(2, json.dumps(text).encode())
        answer = await self._api.ask(_PUBLISH, (), request)
        if answer[:1] == b"\x0a":
            raise CallFailed(answer.decode("latin-1"))


@asynccontextmanager
async def centrifugo(*, in_valkey: bool) -> AsyncIterator[CentrifugoTarget]:
    """Runs Centrifugo, with Valkey or alone."""
    await asyncio.to_thread(build)
    if not in_valkey:
        async with _running({}, ()) as target:
            yield target
        return
    with valkey_server(is_durable=True) as valkey:
        history = {"history_size": _HISTORY_SIZE, "history_ttl": "300s"}
        engine = {"type": "redis", "redis": {"address": [valkey.url]}}
        changes = {"engine": engine, "channel": {"without_namespace": history}}
        async with _running(changes, (valkey.pid,)) as target:
            yield target


@asynccontextmanager
async def _running(changes: dict[str, Any], others: Collection[int]) -> AsyncIterator[CentrifugoTarget]:
    http_port, stream_port, api_port = find_free(3)
    allowed = {"allow_subscribe_for_client": True, "allow_subscribe_for_anonymous": True}
    namespace = changes.get("channel", {}).get("without_namespace", {})
    configuration = {
        **changes,
        "usage_stats": {"disabled": True},
        "http_server": {"address": "127.0.0.1", "port": str(http_port)},
        "client": {"allow_anonymous_connect_without_token": True},
        "channel": {"without_namespace": {**allowed, **namespace}},
        "uni_grpc": {"enabled": True, "address": "127.0.0.1", "port": stream_port},
        "grpc_api": {"enabled": True, "address": "127.0.0.1", "port": api_port},
    }
    with tempfile.TemporaryDirectory(prefix="hubbub-bench-") as name:
        folder = Path(name)
        (folder / "config.json").write_text(json.dumps(configuration))
        with (folder / "log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *leashed(_binary(), "-c", folder / "config.json"),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            api = await _connect(api_port, process)
            yield CentrifugoTarget(process.pid, others, stream_port, api)
            api.close()
        finally:
            if process.returncode is None:
                process.terminate()
                try:
                    async with asyncio.timeout(_STOP_S):
                        await process.wait()
                except TimeoutError:
                    process.kill()
                    await process.wait()


async def _connect(port: int, process: asyncio.subprocess.Process) -> GrpcConnection:
    async with asyncio.timeout(_READY_S):
        while True:
            try:
                return await GrpcConnection.open(port)
            except OSError as exc:
                if process.returncode is not None:
                    raise RuntimeError(f"centrifugo ended with {process.returncode}") from exc
                await asyncio.sleep(0.1)
