"""Tells a cancelled task from a cancelled call: grpc.aio raises CancelledError for both."""

import asyncio


def is_task_cancelled() -> bool:
    """Tells whether the running task itself was asked to stop; if not, somebody cancelled what it awaited."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
