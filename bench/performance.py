"""Writes docs/PERFORMANCE.md and its pictures from docs/report.json. See `make report`.

No figure in it is typed, but for those of what was tried (tried.md): each was true of one machine on one day.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from typing import Any, Final

from bench.capacity import capacity
from bench.figure import FIGURES, ROOT
from bench.svg import bars, curve

PAGE: Final = ROOT / "docs" / "PERFORMANCE.md"
TRIED: Final = ROOT / "bench" / "tried.md"
PICTURES: Final = ROOT / "docs" / "performance"
_NOT_TAKEN: Final = "Not taken yet.\n"
_LOADS: Final = ("fan_out", "send_many", "send_hot", "send_unary")
_SHOWN_SHARES: Final = 12
_FAN_OUTS: Final = {
    "fan_out": "Fan-out of a busy topic, shared connections",
    "fan_out_quiet": "Fan-out of a quiet topic, shared connections",
    "fan_out_own_connections": "Fan-out of a busy topic and memory, a connection for each stream",
    "fan_out_own_connections_quiet": "Fan-out of a quiet topic, a connection for each stream",
}

Figure = Mapping[str, Any]

_HEAD: Final = """# How fast it is, and where the time goes

Written by `python -m bench.performance` from [report.json](report.json): each figure has its command, commit, time and
windows there. `make bench` takes them in about 40 minutes, `make report` writes the report and this page. Centrifugo is
built by Go from its module; without Go its rows are missing. A figure that missed its bound says so.

CPU time is what the kernel counted for the processes that are named, over whole windows; each figure is the median of
its windows. Clients are processes of their own on HTTP/2 without grpcio (bench/h2_client.py) and stay below 70 % of a
core, or the figure does not hold. Clients and servers share the machine: what is to be compared is in one table of one
run. A schedule of sends waits for nobody, and a time counts from when its send was due.
"""

_SIGNALS: Final = {
    "presence": "Presence of watched sessions when a node or Valkey goes away",
    "flapping": "Users who come and go all the time",
    "readers": "Everybody reads in a large conversation",
    "counters": "Counters of a client that comes back",
}


def render(report: Mapping[str, Any]) -> str:
    """Returns the page."""
    figures: Mapping[str, Figure] = report["figures"]
    sections = (
        *((title, _fan_out(figures.get(name), name)) for name, title in _FAN_OUTS.items()),
        ("Sends, as many as there can be", _throughput(figures)),
        ("Sends at a rate", _latency(figures.get("send_latency"))),
        ("One send after the other", _scalars(figures.get("serial_commit"))),
        ("Reconnect storm", _scalars(figures.get("storm"))),
        ("Streams that come and go for an hour", _scalars(figures.get("reconnects"))),
        ("Growth", "".join(_growth(figures, name) for name in ("streams", "members", "messages"))),
        *((title, _scalars(figures.get(name))) for name, title in _SIGNALS.items()),
        ("Where the time of a node goes", _where(figures.get("where"))),
        ("What a million connections would need", capacity(figures) or _NOT_TAKEN),
        ("What was tried", TRIED.read_text()),
    )
    machine = report["machine"]
    on = f"\nMachine: {machine['cores']} cores ({machine['cpu']}), {machine['memory_gib']} GiB.\n"
    return _HEAD + on + "".join(f"\n## {title}\n\n{text}" for title, text in sections)


def pictures(figures: Mapping[str, Figure]) -> dict[str, str]:
    """Returns the pictures by the names of their files."""
    drawn = {}
    for name in _FAN_OUTS:
        if figure := figures.get(name):
            values = {target: row["cpu_us"] for target, row in figure["targets"].items()}
            goal = figure["cpu_us_max"]
            title = "CPU of the delivering processes for each delivery" + ("; line: goal of the edge" if goal else "")
            drawn[f"{name}.svg"] = bars(title, values, unit="µs", goal=goal)
    if figure := figures.get("send_latency"):
        values = {f"{rate}/s": each["delivered_p99_ms"] for rate, each in figure["rates"].items()}
        title = "send → delivered, p99 by rate; line: goal at 1,000/s"
        drawn["send_latency.svg"] = bars(title, values, unit="ms", goal=figure["delivered_p99_ms_max"])
    for name in ("streams", "members", "messages"):
        if figure := figures.get(f"growth_{name}"):
            unit_of = "cpu_us_per_send" if "cpu_us_per_send" in figure else "page_median_us"
            drawn[f"growth_{name}.svg"] = curve(f"{figure['what']}", figure[unit_of], unit="µs")
    return drawn


def _verdict(figure: Figure) -> str:
    said = {True: "held", False: "**missed**"}.get(figure.get("holds", ""), "without a bound")
    return f"Bound: {said}. `{figure['command']}` at {figure['commit'][:12]}, {figure['taken']}.\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def _fan_out(figure: Figure | None, name: str) -> str:
    if figure is None:
        return _NOT_TAKEN
    rows = [
        (
            target,
            row["persists_before_its_ack"],
            row["in_flight"],
            row["deliveries_per_s"],
            row["cpu_us"],
            row["cpu_us_beyond_sends"],
            row["cpu_us_with_others"],
            row["cpu_us_per_send"],
            row["kb_per_stream"],
            row["latency_p99_ms"],
            row["busiest_client_load"],
            figure["times_the_cpu_of_the_edge"].get(target, 1),
        )
        for target, row in figure["targets"].items()
    ]
    head = (
        "target",
        "on disk before its ack",
        "texts in flight",
        "deliveries/s",
        "µs a delivery",
        "without the sends",
        "with log, store, broker",
        "µs a send",
        "KB a stream",
        "p99 ms",
        "client load",
        "times the edge",
    )
    return f"{figure['what']}.\n\n{_table(head, rows)}\n![{name}](performance/{name}.svg)\n\n{_verdict(figure)}"


def _throughput(figures: Mapping[str, Figure]) -> str:
    text = ""
    for name in ("send_many", "send_hot"):
        if (figure := figures.get(name)) is None:
            text += f"{name}: not taken yet.\n\n"
            continue
        cpu = ", ".join(f"{name} {cost}" for name, cost in figure["cpu_us_per_send"].items())
        text += (
            f"{figure['what']}: **{figure['per_s']:.0f}/s** (goal {figure['least_per_s']:.0f}), ack p50 "
            f"{figure['ack_p50_ms']} ms, p99 {figure['ack_p99_ms']} ms. µs of CPU a send: {cpu}.\n{_verdict(figure)}\n"
        )
    return text


def _latency(figure: Figure | None) -> str:
    if figure is None:
        return _NOT_TAKEN
    names = ("per_s", "ack_p50_ms", "ack_p99_ms", "delivered_p50_ms", "delivered_p99_ms", "delivered_p999_ms")
    rows = [(rate, *(each[name] for name in names), each["failed"]) for rate, each in figure["rates"].items()]
    table = _table(("asked /s", "answered /s", *(name.replace("_", " ") for name in names[1:]), "failed"), rows)
    return f"{figure['what']}.\n\n{table}\n![send_latency](performance/send_latency.svg)\n\n{_verdict(figure)}"


def _scalars(figure: Figure | None) -> str:
    if figure is None:
        return _NOT_TAKEN
    left_out = {"command", "commit", "taken", "holds", "what"}
    rows = [(_words(name), _shown(value)) for name, value in figure.items() if name not in left_out]
    return f"{figure.get('what', '')}\n\n{_table(('', ''), rows)}\n{_verdict(figure)}"


def _shown(value: object) -> str:
    match value:
        case dict():
            return ", ".join(f"{_words(name)} {_shown(each)}" for name, each in value.items()) or "none"
        case list():
            return ", ".join(map(str, value))
        case _:
            return str(value)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _growth(figures: Mapping[str, Figure], name: str) -> str:
    figure = figures.get(f"growth_{name}")
    if figure is None:
        return f"{name}: not taken yet.\n\n"
    return (
        f"![growth_{name}](performance/growth_{name}.svg)\n\nLargest over smallest: "
        f"{figure['largest_over_smallest']} (at most {figure['apart_max']}). {_verdict(figure)}\n"
    )


def _where(figure: Figure | None) -> str:
    if figure is None:
        return _NOT_TAKEN
    text = "Shares of the samples in which a node's Python ran and the function was on the stack.\n"
    for load in _LOADS:
        shares = list(figure[load]["shares"].items())[:_SHOWN_SHARES]
        rows = [(f"{share:.0%}", f"`{function}`") for function, share in shares]
        text += (
            f"\n### {load}\n\n![where_{load}](performance/where_{load}.svg)\n\n{_table(('share', 'function'), rows)}"
        )
    return f"{text}\n{_verdict(figure)}"


def main() -> None:
    """Writes page and pictures; takes flame graphs that were drawn when the samples were taken."""
    report = json.loads((ROOT / "docs" / "report.json").read_text())
    PAGE.write_text(render(report))
    PICTURES.mkdir(exist_ok=True)
    for name, picture in pictures(report["figures"]).items():
        (PICTURES / name).write_text(picture)
    for path in FIGURES.glob("where_*.svg"):
        shutil.copy(path, PICTURES / path.name)
    print(f"written to {PAGE.relative_to(ROOT)}", flush=True)


if __name__ == "__main__":
    main()
