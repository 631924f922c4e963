"""The disk of a NATS server is full: commits fail or go on elsewhere, nothing is half-done; with room all goes on."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hubbub_server.domain.commands import Sent
from hubbub_server.domain.errors import LogUnavailable
from tests.support.real_node import RealInstance
from tests.support.real_room import KEPT_S, hubbub_log, leader_and_group, now, numbers, sent, talk, until_sent
from tests.support.services import NatsCluster, NatsServer, ready_nats_cluster
from tests.support.waiting import until_it_answers
from tests.unit.domain.builders import ALICE

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk"),
]

DISK = "16m"


@contextmanager
def small_disk(cluster: NatsCluster, server: NatsServer) -> Iterator[None]:
    """Gives a server a disk of its own; the server is down when it begins, and killed when it ends."""
    server.kill()
    kept = server.data.with_suffix(".kept")
    server.data.rename(kept)
    server.data.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", server.data], check=True)
    try:
        shutil.copytree(kept, server.data, dirs_exist_ok=True)
        yield
    finally:
        server.kill()
        subprocess.run(["umount", server.data], check=True)


async def open_once(instance: RealInstance) -> None:
    """Returns when a node can start."""
    async with instance.core():
        pass


def fill(folder: Path) -> Path:
    """Writes until the disk is full."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            return path


@pytest.mark.parametrize("size", [1, 3])
async def test_full_disk_loses_nothing_and_is_over_when_there_is_room(size: int, tmp_path: Path) -> None:
    """G1, G2, failure matrix "disk full of NATS": of the only server, of the leader of three."""
    async with ready_nats_cluster(size) as cluster:
        instance = RealInstance(cluster, tmp_path / "store.db")
        await instance.make()
        said = await talk(instance, 1, 5)
        leader = (await leader_and_group(instance))[0] if size == 3 else cluster.servers[0].data.name
        server = next(each for each in cluster.servers if each.data.name == leader)
        with small_disk(cluster, server):
            server.start()
            await cluster.wait_ready()
            await until_it_answers(lambda: open_once(instance))  # leaders may still have to be found
            async with instance.node() as node:
                answered: list[Sent] = [answer for _, answer in said]
                commands = [command for command, _ in said]
                assert await until_sent(node, 99) == 6
                filler = fill(server.data)
                refused = 0
                for serial in range(100, 110):
                    command = now(ALICE, serial)
                    try:
                        answer = await sent(node, command)
                    except (LogUnavailable, TimeoutError):
                        refused += 1
                        continue
                    commands.append(command)
                    answered.append(answer)
                    if refused > 1:
                        break
                filler.unlink()
                server.kill()
                server.start()
                await cluster.wait_ready()
                last = await until_sent(node, 200)
                assert [await sent(node, command) for command in commands] == answered
                async with instance.worker(kept_s=KEPT_S):
                    await instance.until_caught_up()
                assert await numbers(node) == list(range(1, last + 1))
            assert refused or size == 3
            assert await hubbub_log(instance, "verify") == (0, "")
