"""Pages of lists: how large they are, and their opaque tokens: signed, bound to list and caller (AIP-158)."""

import base64
import hashlib
import hmac
from collections.abc import Iterable
from typing import Final

from hubbub_server.domain.errors import InvalidField

_MAC_BYTES: Final = 12


class PageTokens:
    """Makes and reads page tokens."""

    def __init__(self, key: bytes) -> None:
        """`key` is the same on all nodes."""
        self._key = key

    def make(self, scope: str, place: int) -> str:
        """Returns the token of the page that starts after `place` in the list that `scope` names."""
        return self.make_text(scope, str(place))

    def make_text(self, scope: str, place: str) -> str:
        """As `make`, of a list whose places are no numbers."""
        text = place.encode()
        return base64.urlsafe_b64encode(self._mac(scope, text) + text).decode().rstrip("=")

    def read(self, scope: str, token: str) -> int | None:
        """Returns the place of a token, None for the first page. Raises InvalidField for a token of elsewhere."""
        text = self.read_text(scope, token)
        return None if text is None else int(text)

    def read_text(self, scope: str, token: str) -> str | None:
        """As `read`, of a token that `make_text` made."""
        if not token:
            return None
        try:
            raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
            mac, text = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
            if hmac.compare_digest(mac, self._mac(scope, text)):
                return text.decode()
        except ValueError:
            pass  # not base64, not ASCII: told below
        raise InvalidField("page_token", "the next_page_token of the page before, of the same list")

    def _mac(self, scope: str, text: bytes) -> bytes:
        return hmac.new(self._key, scope.encode() + b"\0" + text, hashlib.sha256).digest()[:_MAC_BYTES]


def size_of_page(requested: int, *, default: int, maximum: int) -> int:
    """Returns the size of a page: 0 = default, too large = maximum. Raises InvalidField when negative."""
    if requested < 0:
        raise InvalidField("page_size", "0 or more")
    return min(requested or default, maximum)


def count_that_fit(sizes_bytes: Iterable[int], max_bytes: int) -> int:
    """Returns how many things from the first on have at most `max_bytes` together; one at least, if there is any."""
    count = total_bytes = 0
    for size_bytes in sizes_bytes:
        total_bytes += size_bytes
        if total_bytes > max_bytes and count > 0:
            break
        count += 1
    return count
