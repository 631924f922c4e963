"""Random ids from the operating system."""

import base64
import secrets


class RandomIds:
    """Implements IdSource."""

    def new_id(self, prefix: str) -> str:
        """Returns `prefix` and 128 random bits as 26 characters of [a-z2-7]."""
        return prefix + base64.b32encode(secrets.token_bytes(16)).decode().rstrip("=").lower()
