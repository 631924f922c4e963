"""Shows the metrics of this process to Prometheus. It answers from a thread, also while the event loop is busy."""

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import start_http_server


@contextmanager
def serve_metrics(host: str, port: int) -> Iterator[int]:
    """Serves on `host`; port 0 takes a free one. Yields the port; the block's end closes it.

    Raises:
        OSError: the port is taken.
    """
    server, thread = start_http_server(port, host)
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
