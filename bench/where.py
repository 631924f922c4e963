"""Where the time of a node goes: samples of its Python stacks under three loads, by py-spy, as shares and flame graphs.

Only samples in which the thread holds the interpreter's lock are taken, so waiting is not in them; nor is what C code
does without the lock (sockets of uvloop, the core of grpcio). The sampler slows the node down: shares, no times.
"""

import argparse
import asyncio
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from bench.crowd import create_group, register
from bench.crowd_process import receiving, sending
from bench.fanout import send_steadily
from bench.figure import FIGURES, write_figure
from bench.hubbub_target import hubbub
from bench.receivers import ReceiversPlan
from bench.senders import SendersPlan
from bench.svg import flames
from tests.support.cluster import Cluster

_CONVERSATIONS: Final = 50
_WINDOW: Final = 200
_SAMPLES_PER_S: Final = "200"
_ENTRY: Final = "Runner.run (asyncio/runners.py)"
_SHOWN: Final = 30
_PLACE: Final = re.compile(r":\d+\)")


async def sample(pid: int, seconds: float) -> Counter[str]:
    """Samples the stacks of a process; returns how often each was met, outermost function first.

    Raises:
        RuntimeError: py-spy cannot look into the process.
    """
    with tempfile.TemporaryDirectory(prefix="hubbub-bench-") as folder:
        path = Path(folder) / "raw"
        program = str(Path(sys.executable).with_name("py-spy"))
        options = ("--gil", "--rate", _SAMPLES_PER_S, "--duration", str(round(seconds)), "--format", "raw")
        sampler = await asyncio.create_subprocess_exec(
            *(program, "record", *options, "--output", str(path), "--pid", str(pid)),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        _, said = await sampler.communicate()
        if sampler.returncode:
            raise RuntimeError(f"py-spy: {said.decode()[-300:]}")
        return read_stacks(await asyncio.to_thread(path.read_text))


def read_stacks(raw: str) -> Counter[str]:
    """Reads lines of `a;b;c count`: what ran in the event loop, from its callbacks on, without numbers of lines."""
    stacks: Counter[str] = Counter()
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = _PLACE.sub(")", stack).split(";")
        if _ENTRY in frames and (inner := frames[frames.index(_ENTRY) + 1 :]):
            stacks[";".join(inner)] += int(count)
    return stacks


def shares(stacks: Mapping[str, int]) -> dict[str, float]:
    """Returns in which share of the samples each function was on the stack, the largest first."""
    within: Counter[str] = Counter()
    for stack, count in stacks.items():
        for name in set(stack.split(";")):
            within[name] += count
    total = sum(stacks.values())
    return {name: round(count / total, 3) for name, count in within.most_common(_SHOWN)}


async def sends(seconds: float, *, conversations: int, is_unary: bool) -> Counter[str]:
    """Samples a node that takes as many sends as it can."""
    with tempfile.TemporaryDirectory(prefix="hubbub-bench-") as folder:
        async with Cluster(Path(folder), nodes=1) as cluster:
            users = await register(cluster.port, 2)
            topics = tuple([await create_group(cluster.port, users[0], users[1:]) for _ in range(conversations)])
            node = cluster.processes("node")[0]
            plan = SendersPlan(
                port=node.grpc_port if is_unary else node.stream_port,
                by="unary" if is_unary else "stream",
                connections=1,
                senders=((users[0].token, topics),),
            )
            async with sending([plan]) as (process,), asyncio.TaskGroup() as tasks:
                tasks.create_task(process.ask(op="run", seconds=seconds + 2.0, window=_WINDOW))
                return await sample(node.pid, seconds)


async def fan_out(seconds: float) -> Counter[str]:
    """Samples a node that delivers to 1,000 streams on 50 connections."""
    async with hubbub("edge") as target:
        plan = ReceiversPlan(**asdict(target.opening), connections=25, streams_a_connection=20)
        async with receiving([plan] * 2), asyncio.TaskGroup() as tasks:
            tasks.create_task(send_steadily(target, 12.0, seconds + 2.0))
            [pid] = target.delivering
            return await sample(pid, seconds)


async def main() -> None:
    """Samples all loads; keeps shares as a figure, pictures beside it."""
    parser = argparse.ArgumentParser(prog="bench.where")
    parser.add_argument("--seconds", type=float, default=20.0)
    seconds = parser.parse_args().seconds
    loads = {
        "fan_out": await fan_out(seconds),
        "send_many": await sends(seconds, conversations=_CONVERSATIONS, is_unary=False),
        "send_hot": await sends(seconds, conversations=1, is_unary=False),
        "send_unary": await sends(seconds, conversations=_CONVERSATIONS, is_unary=True),
    }
    result: dict[str, Any] = {
        name: {"samples": sum(stacks.values()), "shares": shares(stacks)} for name, stacks in loads.items()
    }
    write_figure("where", "python -m bench.where", {"what": "Python functions on the stack of a node", **result})
    for name, stacks in loads.items():
        (FIGURES / f"where_{name}.svg").write_text(flames(f"{name}: Python of a node", stacks))


if __name__ == "__main__":
    asyncio.run(main())
