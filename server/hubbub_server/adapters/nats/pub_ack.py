"""What an answer to an append means. Only one that says so plainly is an acknowledgement or a refusal."""

import json
from typing import Any

from hubbub_server.adapters.nats.errors import ApiRefusal
from hubbub_server.ports.topic_log import AppendUnknown, Conflict, LogFull


def read_pub_ack(answer: bytes, stream: str) -> int:
    """Returns the sequence of the record that was appended to `stream`.

    Raises:
        Conflict: nothing was appended.
        LogFull: nothing was appended.
        AppendUnknown: anything else, also an acknowledgement of something else.
    """
    try:
        content: dict[str, Any] = json.loads(answer)
        if "error" not in content:
            if content.get("duplicate") or content["stream"] != stream:
                raise AppendUnknown("the log acknowledged something else")
            return int(content["seq"])
        refusal = ApiRefusal.of(content["error"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AppendUnknown("the log's answer cannot be read") from error
    if refusal.is_conflict:
        raise Conflict(str(refusal)) from refusal
    if refusal.is_full:
        raise LogFull(str(refusal)) from refusal
    raise AppendUnknown(str(refusal)) from refusal
