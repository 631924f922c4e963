"""Ordinary KV buckets, so the `nats` command line reads them."""

from hubbub_server.adapters.nats.connection import NatsConnection
from hubbub_server.adapters.nats.documents import Documents
from hubbub_server.adapters.nats.streams import ensure_stream, stream_config


def open_bucket(connection: NatsConnection, name: str) -> Documents:
    """Returns the documents of a bucket; `ensure_bucket` makes it."""
    return Documents(connection, stream=f"KV_{name}", prefix=f"$KV.{name}.")


async def ensure_bucket(connection: NatsConnection, name: str, *, replicas: int, can_expire: bool) -> None:
    """Makes a bucket if it is missing. `can_expire` allows `ttl_s` in writes. Raises LogUnavailable."""
    config = stream_config(f"KV_{name}", f"$KV.{name}.>", replicas=replicas) | {
        "max_msgs_per_subject": 1,
        "allow_direct": True,
        "allow_rollup_hdrs": True,
        "allow_msg_ttl": can_expire,
        "deny_delete": True,
    }
    await ensure_stream(connection, config)
