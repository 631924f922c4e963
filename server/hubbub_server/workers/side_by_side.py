"""Does one thing to many, a few at a time, while a lease is held."""

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar

from hubbub_server.app import side_by_side as app

T = TypeVar("T")

_AT_ONCE: Final = 16


async def side_by_side(
    work: Callable[[T], Coroutine[Any, Any, None]],
    items: Sequence[T],
    require_lease: Callable[[], None] | None = None,
) -> None:
    """Awaits `work` of each item, 16 at a time; calls `require_lease`, if there is one, before each 16.

    The first error ends the others of its 16 and is raised as it is: whoever calls this knows no groups of them.
    """
    for start in range(0, len(items), _AT_ONCE):
        if require_lease is not None:
            require_lease()
        await app.side_by_side(work, items[start : start + _AT_ONCE], at_once=_AT_ONCE)
