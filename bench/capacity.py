"""Cores and memory for a million connections, computed from what was measured on one node. Nobody has run that."""

from collections.abc import Mapping
from typing import Any, Final

CONNECTIONS: Final = 1_000_000
_HEARTBEAT_S: Final = 20.0
_AUDIENCE: Final = 10
"""Streams that hear a message, on average."""
_BUSY: Final = 0.6
"""A core is not planned to be busier."""
_SENDS_AN_HOUR: Final = (2, 20, 120)
"""Of one client, on average over the busiest hour."""


def capacity(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the text; empty when a figure that it needs was not taken."""
    if not {"fan_out_quiet", "fan_out_own_connections_quiet", "send_many"} <= figures.keys():
        return ""
    shared = figures["fan_out_quiet"]["targets"]["edge"]
    own = figures["fan_out_own_connections_quiet"]["targets"]["edge"]
    by_process = figures["send_many"]["cpu_us_per_send"]
    node_us = sum(cost for name, cost in by_process.items() if name.startswith("node"))
    behind_us = sum(cost for name, cost in by_process.items() if not name.startswith(("node", "envoy")))
    delivery_us = max(shared["cpu_us_beyond_sends"], 0.0)
    lines = [
        "| sends of a client an hour | sends/s | deliveries/s | cores of nodes | cores behind them (log, worker) |",
        "| --- | --- | --- | --- | --- |",
    ]
    for each in _SENDS_AN_HOUR:
        sends_per_s = CONNECTIONS * each / 3600
        deliveries_per_s = sends_per_s * _AUDIENCE
        frames_per_s = deliveries_per_s + CONNECTIONS / _HEARTBEAT_S
        nodes = cores(sends_per_s * node_us + frames_per_s * delivery_us)
        behind = cores(sends_per_s * behind_us)
        lines.append(f"| {each} | {sends_per_s:.0f} | {deliveries_per_s:.0f} | {nodes:.1f} | {behind:.1f} |")
    return (
        f"**Computed, not measured**: {CONNECTIONS:,} connections, each message heard by {_AUDIENCE} streams, a "
        f"heartbeat every {_HEARTBEAT_S:g} s counted as a delivery, cores at most {_BUSY:.0%} busy. From above: "
        f"{delivery_us:g} µs a delivery, {node_us:.0f} µs of node and {behind_us:.0f} µs of log and worker a send "
        f"(one log server, SQLite), {shared['kb_per_stream']:g} KB a stream behind a proxy, {own['kb_per_stream']:g} "
        f"KB with a connection of its own. A node is one process on one core, so cores of nodes are nodes. "
        f"The proxy, replicas of the log and the store's servers are not in it.\n\n"
        + "\n".join(lines)
        + f"\n\nMemory of nodes: {gib(shared['kb_per_stream']):.1f} GiB behind a proxy, "
        f"{gib(own['kb_per_stream']):.1f} GiB with a connection for each client.\n"
    )


def cores(us_per_s: float) -> float:
    """Returns how many cores do so much work a second without being too busy."""
    return us_per_s / 1e6 / _BUSY


def gib(kb_per_stream: float) -> float:
    """Returns the memory of all streams."""
    return CONNECTIONS * kb_per_stream / 2**20
