"""What a soak run writes down: the vocabulary of its JSONL files, and how they are read back.

One object a line: `t` (seconds of CLOCK_MONOTONIC, which all processes of a machine share), `who` (the process), `k`
(the kind), and the fields of the kind. The order of lines in a file is the order in which its process saw things.

==========  ====================================================================================================
client      user, flavor (raw | sdk | auditor)
start       topic, position: the client follows a topic from here (its cursor); again after it rejoined
stream      n: the n-th stream of this client is open (n >= 2 is a resume)
head        stream, topic, epoch, position, number, via (heads | heartbeat | caught_up)
event       via (live | sync), stream, topic, epoch, position, number, id, sender, content, bytes, commit_ms, what,
            users
gap, reset  topic, from, position: the cursor jumps
ended       stream (0: told by Sync), topic: TopicEnded
goodbye     reason
heartbeat   live: whether the node hears the log; lagging: told to read faster
attempt     topic, id, try, content, prev: a send leaves
ack         topic, id, try, number, epoch, position, commit_ms
fail        topic, id, try, code, reason, final: no ack for this try; final: the sender gives up
page        begin, topic, position, number, confirmed: a ListMessages that began at `begin` reflects this head; not
            confirmed: the node said that it cannot read the log and that newer messages may exist
message     topic, number, id, sender, content, commit_ms: a row of the last ListMessages
history     topic, position, number: end of the last ListMessages of a topic, with its head
denied      topic: the last ListMessages was refused, the client is no member
kill        what (node | worker | nats), pid
fault       what, link
fault_begin n, fault, target, totals: the n-th fault of a chaos run; totals as below
fault_end   n, repaired (when), totals, effects: what it did to parts that clients do not see
quiet       clients were told to send nothing new
change      op (add | remove), topic, user, state (begin | done), position (when done)
counters    totals of the nodes' Prometheus counters over all their lives
==========  ====================================================================================================

`content` and `bytes` are hashes; an SDK that does not show an event's bytes leaves `bytes` empty.
"""

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Record = dict[str, Any]


def digest(content: bytes | str) -> str:
    """Shortens content to something that can be compared and logged."""
    raw = content.encode() if isinstance(content, str) else content
    return hashlib.blake2b(raw, digest_size=8).hexdigest()


class Journal:
    """Appends records to one file. Each line is flushed: the process may be killed at any moment."""

    def __init__(self, path: Path, who: str) -> None:
        """Opens the file for appending."""
        self._file = path.open("a", buffering=1)
        self._who = who

    def write(self, kind: str, **fields: Any) -> None:
        """Writes one record with the time of now."""
        record = {"t": round(time.monotonic(), 6), "who": self._who, "k": kind, **fields}
        self._file.write(json.dumps(record, separators=(",", ":")) + "\n")

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def read_records(folder: Path) -> Iterator[Record]:
    """Reads all files of a run, one after the other, each in its order. A last line cut by a kill is left out."""
    for path in sorted(folder.glob("*.jsonl")):
        with path.open() as lines:
            for line in lines:
                if line.endswith("\n"):
                    yield json.loads(line)
