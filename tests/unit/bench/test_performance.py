"""The page of speed has no typed figures: it is what the report gives, and so are its pictures."""

import copy
import json
from typing import Any
from xml.etree import ElementTree

import pytest

from bench import performance
from bench.capacity import capacity, cores, gib
from bench.figure import ROOT

REPORT = json.loads((ROOT / "docs" / "report.json").read_text())


def stamp(**fields: Any) -> dict[str, Any]:
    """Returns a figure with what every one has."""
    return {"command": "make bench", "commit": "0" * 40, "taken": "2026-01-01T00:00:00Z", "what": "a load", **fields}


def row(cpu_us: float) -> dict[str, Any]:
    """Returns what a target of a fan-out was measured at."""
    return {
        "persists_before_its_ack": "a record",
        "in_flight": 1,
        "deliveries_per_s": 1_000,
        "cpu_us": cpu_us,
        "cpu_us_beyond_sends": cpu_us / 2,
        "cpu_us_with_others": cpu_us * 2,
        "cpu_us_per_send": 700,
        "kb_per_stream": 10.0,
        "latency_p99_ms": 5.0,
        "busiest_client_load": 0.1,
    }


def fan_out() -> dict[str, Any]:
    """Returns the figure of a fan-out."""
    targets = {"edge": row(2.0), "grpc.aio": row(30.0)}
    return stamp(holds=True, cpu_us_max=1.5, targets=targets, times_the_cpu_of_the_edge={"grpc.aio": 15.0})


def rate(p99_ms: float) -> dict[str, float]:
    """Returns what was measured at a rate."""
    names = ("per_s", "ack_p50_ms", "ack_p99_ms", "delivered_p50_ms", "delivered_p999_ms", "failed")
    return {**dict.fromkeys(names, 1.0), "delivered_p99_ms": p99_ms}


def throughput(per_s: float) -> dict[str, Any]:
    """Returns the figure of sends as fast as can be."""
    cpu_us = {"nats": 100, "worker": 200, "node-1": 400, "envoy": 3}
    times = {"ack_p50_ms": 1.0, "ack_p99_ms": 2.0}
    return stamp(holds=False, per_s=per_s, least_per_s=5_000.0, cpu_us_per_send=cpu_us, **times)


def growth(name: str) -> dict[str, Any]:
    """Returns a curve."""
    return stamp(holds=True, largest_over_smallest=1.1, apart_max=1.25, **{name: {"10": 1, "100": 2}})


WHOLE: dict[str, Any] = {
    "machine": {"cores": 2, "cpu": "a cpu", "memory_gib": 8},
    "figures": {
        "fan_out": fan_out(),
        "fan_out_quiet": fan_out(),
        "fan_out_own_connections": fan_out(),
        "fan_out_own_connections_quiet": fan_out(),
        "send_many": throughput(1_234.0),
        "send_hot": throughput(5_678.0),
        "send_latency": stamp(rates={"1000": rate(7.5)}, delivered_p99_ms_max=15.0),
        "growth_streams": growth("cpu_us_per_send"),
        "growth_members": growth("cpu_us_per_send"),
        "growth_messages": growth("page_median_us"),
        "where": stamp(**{load: {"shares": {"f (a.py)": 0.5}} for load in performance._LOADS}),
        "serial_commit": stamp(p50_ms=2.5),
        "storm": stamp(seconds=9.0, without_tokens={"all_live_s": 3.5, "errors": {}}),
        "reconnects": stamp(minutes=60.0, node_rss_each_tenth_mib=[97.9, 98.0]),
        "presence": stamp(killed={"p99_s": 8.2}),
        "flapping": stamp(users=1_000),
        "readers": stamp(rounds=3),
        "counters": stamp(s=1.4),
    },
}


def test_the_page_is_what_the_report_gives() -> None:
    assert performance.PAGE.read_text() == performance.render(REPORT)


def test_the_pictures_are_what_the_report_gives() -> None:
    for name, picture in performance.pictures(REPORT["figures"]).items():
        assert (performance.PICTURES / name).read_text() == picture


def test_every_picture_of_the_page_is_there() -> None:
    for line in performance.PAGE.read_text().splitlines():
        if line.startswith("!["):
            assert (ROOT / "docs" / line.partition("(")[2].rstrip(")")).exists(), line


def test_a_whole_report_gives_a_page_without_gaps_and_pictures_that_are_xml() -> None:
    page = performance.render(WHOLE)
    assert "ot taken yet" not in page
    for shown in (
        "| edge | a record | 1 | 1000 | 2.0 |",
        "**1234/s**",
        "**missed**",
        "7.5",
        "`f (a.py)`",
        "all live s 3.5, errors none",
        "97.9, 98.0",
    ):
        assert shown in page
    drawn = performance.pictures(WHOLE["figures"])
    assert len(drawn) == 8
    for picture in drawn.values():
        ElementTree.fromstring(picture)


@pytest.mark.parametrize("name", WHOLE["figures"])
def test_a_figure_that_was_not_taken_is_named_as_such(name: str) -> None:
    report = copy.deepcopy(WHOLE)
    del report["figures"][name]
    assert "ot taken yet" in performance.render(report)
    performance.pictures(report["figures"])


def test_capacity_counts_sends_deliveries_and_heartbeats() -> None:
    text = capacity(WHOLE["figures"])
    # 2 an hour: 555.6 sends of 400 us, 5,556 deliveries and 50,000 heartbeats of 1 us, at 60 %; 300 us behind them.
    assert "| 2 | 556 | 5556 | 0.5 | 0.3 |" in text
    assert "Computed, not measured" in text


def test_capacity_in_units() -> None:
    assert cores(600_000.0) == pytest.approx(1.0)
    assert gib(1.048576) == pytest.approx(1.0)
