"""The fault proxy does what its faults say: other tests rest on it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.support.fault_proxy import Cut, Direction, FaultProxy

Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def echo_through_proxy() -> AsyncIterator[tuple[FaultProxy, Pair]]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while chunk := await reader.read(4096):
                writer.write(chunk)
            writer.write_eof()
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server, FaultProxy(server.sockets[0].getsockname()[1]) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        try:
            async with asyncio.timeout(5):
                yield proxy, (reader, writer)
        finally:
            writer.close()


async def says_nothing(reader: asyncio.StreamReader, for_s: float = 0.2) -> bool:
    try:
        async with asyncio.timeout(for_s):
            await reader.read(1)
    except TimeoutError:
        return True
    return False


@pytest.mark.asyncio
async def test_bytes_pass_and_the_end_passes() -> None:
    async with echo_through_proxy() as (_, (reader, writer)):
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        writer.write_eof()
        assert await reader.read() == b""


@pytest.mark.asyncio
@pytest.mark.parametrize("direction", list(Direction))
async def test_a_stall_holds_bytes_back_and_loses_none(direction: Direction) -> None:
    async with echo_through_proxy() as (proxy, (reader, writer)):
        writer.write(b"a")
        assert await reader.readexactly(1) == b"a"
        proxy.stall(direction)
        writer.write(b"b")
        assert await says_nothing(reader)
        proxy.flow()
        assert await reader.readexactly(1) == b"b"


@pytest.mark.asyncio
async def test_silence_keeps_the_connection_open_and_drops_bytes() -> None:
    async with echo_through_proxy() as (proxy, (reader, writer)):
        writer.write(b"a")
        assert await reader.readexactly(1) == b"a"
        proxy.silence()
        writer.write(b"b")
        assert await says_nothing(reader)
        proxy.flow()
        assert await says_nothing(reader)


@pytest.mark.asyncio
async def test_fin_ends_in_order_and_rst_resets() -> None:
    async with echo_through_proxy() as (proxy, (reader, writer)):
        writer.write(b"a")
        assert await reader.readexactly(1) == b"a"
        assert proxy.cut(Cut.FIN) == 1
        assert await reader.read() == b""
    async with echo_through_proxy() as (proxy, (reader, writer)):
        writer.write(b"a")
        assert await reader.readexactly(1) == b"a"
        proxy.cut(Cut.RST)
        with pytest.raises(ConnectionResetError):
            await reader.read()


@pytest.mark.asyncio
async def test_a_refusing_proxy_resets_what_comes() -> None:
    async with echo_through_proxy() as (proxy, _):
        proxy.refuse()
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()


@pytest.mark.asyncio
async def test_a_delay_holds_each_chunk_back() -> None:
    async with echo_through_proxy() as (proxy, (reader, writer)):
        proxy.delay(0.1)
        loop = asyncio.get_running_loop()
        begin = loop.time()
        writer.write(b"a")
        assert await reader.readexactly(1) == b"a"
        assert loop.time() - begin >= 0.1
