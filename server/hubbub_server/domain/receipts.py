"""What members of a conversation learn of each other's reading."""

from enum import Enum

from hubbub_server.domain.limits import RECEIPTS_COUNT_MEMBERS, RECEIPTS_FULL_MEMBERS


class ReceiptsMode(Enum):
    """What members learn, the most first."""

    FULL = "full"
    COUNT_ONLY = "count_only"
    OFF = "off"


_ORDER = tuple(ReceiptsMode)


def receipts_mode(member_count: int, limit: ReceiptsMode = ReceiptsMode.FULL) -> ReceiptsMode:
    """Returns the mode of a conversation of that many members, at most `limit` (C33, C34)."""
    if member_count <= RECEIPTS_FULL_MEMBERS:
        allowed = ReceiptsMode.FULL
    else:
        allowed = ReceiptsMode.COUNT_ONLY if member_count <= RECEIPTS_COUNT_MEMBERS else ReceiptsMode.OFF
    return max(allowed, limit, key=_ORDER.index)
