"""Random ids from the operating system."""

import secrets
from typing import Final

_LETTERS: Final = b"abcdefghijklmnopqrstuvwxyz234567"
_LETTER_OF_BYTE: Final = _LETTERS * (256 // len(_LETTERS))


class RandomIds:
    """Implements IdSource."""

    def new_id(self, prefix: str) -> str:
        """Returns `prefix` and 130 random bits as 26 characters of [a-z2-7]."""
        return prefix + secrets.token_bytes(26).translate(_LETTER_OF_BYTE).decode()
