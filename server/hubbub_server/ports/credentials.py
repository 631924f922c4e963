"""Passwords and tokens."""

from dataclasses import dataclass
from typing import Protocol

from hubbub_server.domain.ids import DeviceSessionId, UserId


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessClaims:
    """What an access token says. `generation` is that of the refresh family when the token was made."""

    user_id: UserId
    device_session_id: DeviceSessionId
    generation: int
    expire_time_ms: int


class PasswordHasher(Protocol):
    """Hashes passwords slowly, off the event loop, few at a time. Raises RateLimited when too many wait."""

    async def hash(self, password: str) -> str:
        """Returns a PHC string."""

    async def verify(self, password: str, password_hash: str | None) -> bool:
        """Tells whether the password fits. None takes as long as a real hash and answers False (unknown account)."""


class TokenSigner(Protocol):
    """Signs and checks access tokens; makes and checks refresh tokens."""

    def sign(self, claims: AccessClaims) -> str:
        """Returns a signed JWT (RFC 7519)."""

    def verify(self, access_token: str) -> AccessClaims:
        """Checks signature, issuer, audience and times. Raises BadCredentials or CredentialsExpired."""

    def refresh_token(self, device_session_id: DeviceSessionId, generation: int) -> str:
        """Returns the refresh token of a generation, always the same one, so that a repeated refresh answers alike."""

    def read_refresh_token(self, refresh_token: str) -> tuple[DeviceSessionId, int]:
        """Returns session and generation of a refresh token of ours. Raises BadCredentials for any other."""
