"""Access tokens as JWT (RFC 7519, RFC 9068) signed with Ed25519; refresh tokens under an HMAC."""

import base64
import hashlib
import hmac
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from joserfc import jwt
from joserfc.jwk import OKPKey

from hubbub_server.adapters.crypto.errors import map_errors
from hubbub_server.domain.errors import BadCredentials
from hubbub_server.domain.ids import DeviceSessionId, is_user_id
from hubbub_server.domain.limits import FUTURE_ID_TOLERANCE_MS
from hubbub_server.ports.clock import Clock
from hubbub_server.ports.credentials import AccessClaims

_ALGORITHM: Final = "Ed25519"
"""The EdDSA of RFC 9864, which names the curve. Fixed: the header of a token never chooses."""
_TYPE: Final = "at+jwt"
_LEEWAY_S: Final = FUTURE_ID_TOLERANCE_MS // 1000
"""A node whose clock is behind must not throw out who has just signed in at another one."""
_MAC_BYTES: Final = 32
_REFRESH_TOKEN_MAX_CHARACTERS: Final = 512
_KEPT_TOKENS: Final = 8192


class JoseTokenSigner:
    """Signs and checks tokens with one Ed25519 key and one HMAC key.

    Times: `exp` is exact, `nbf` and `iat` may lie up to five minutes ahead, as ids may (the clock of another node made
    them). A refresh token is base64url of "session.generation" and its HMAC-SHA256: the same session and generation
    make the same token. Both keys belong to all nodes of a cluster.
    """

    def __init__(
        self, *, signing_key: Ed25519PrivateKey, refresh_key: bytes, issuer: str, audience: str, clock: Clock
    ) -> None:
        self._key = OKPKey.import_key(signing_key)
        self._public_key = OKPKey.import_key(signing_key.public_key())
        self._header = {"alg": _ALGORITHM, "typ": _TYPE, "kid": self._public_key.thumbprint()}
        self._refresh_key = refresh_key
        self._issuer = issuer
        self._audience = audience
        self._clock = clock
        # Each unary call brings its token, and a signature does not change: a seventh of the CPU of a send was this.
        self._read_signed = lru_cache(_KEPT_TOKENS)(self._decode)
        self._rules = jwt.JWTClaimsRegistry(
            now=self._now_s,
            iss={"essential": True, "value": issuer},
            aud={"essential": True, "value": audience},
            sub={"essential": True},
            exp={"essential": True},
        )
        self._early_rules = jwt.JWTClaimsRegistry(
            now=self._now_s, leeway=_LEEWAY_S, nbf={"essential": True}, iat={"essential": True}
        )

    def sign(self, claims: AccessClaims) -> str:
        """Returns a signed JWT that ends at `claims.expire_time_ms`, rounded down to a second."""
        now_s = self._now_s()
        payload = {
            "iss": self._issuer,
            "aud": self._audience,
            "sub": claims.user_id,
            "sid": claims.device_session_id,
            "gen": claims.generation,
            "iat": now_s,
            "nbf": now_s,
            "exp": claims.expire_time_ms // 1000,
        }
        return jwt.encode(self._header, payload, self._key, algorithms=[_ALGORITHM])

    def verify(self, access_token: str) -> AccessClaims:
        """Checks algorithm, type, key, signature, issuer, audience and times; only then the claims mean anything.

        Raises:
            CredentialsExpired: all of it holds, but the token ended.
            BadCredentials: anything else.
        """
        with map_errors():
            claims = self._read_signed(access_token)
            self._early_rules.validate({name: claims[name] for name in ("nbf", "iat")})
            user_id, session_id, generation = claims["sub"], claims["sid"], claims["gen"]
            if not (isinstance(user_id, str) and isinstance(session_id, str) and isinstance(generation, int)):
                raise BadCredentials
            if not is_user_id(user_id):
                raise BadCredentials
            self._rules.validate({name: claims[name] for name in ("iss", "aud", "sub", "exp")})
            return AccessClaims(
                user_id=user_id,
                device_session_id=DeviceSessionId(session_id),
                generation=generation,
                expire_time_ms=int(claims["exp"]) * 1000,
            )

    def _decode(self, access_token: str) -> Mapping[str, Any]:
        token = jwt.decode(access_token, self._public_key, algorithms=[_ALGORITHM])
        if token.header.get("typ") != _TYPE or token.header.get("kid") != self._header["kid"]:
            raise BadCredentials
        return token.claims

    def refresh_token(self, device_session_id: DeviceSessionId, generation: int) -> str:
        """Returns the refresh token of a generation: always the same one."""
        named = f"{device_session_id}.{generation}".encode()
        return base64.urlsafe_b64encode(named + self._mac(named)).decode().rstrip("=")

    def read_refresh_token(self, refresh_token: str) -> tuple[DeviceSessionId, int]:
        """Returns session and generation of a refresh token of ours.

        Raises:
            BadCredentials: it is none, whatever is wrong with it.
        """
        if len(refresh_token) > _REFRESH_TOKEN_MAX_CHARACTERS:
            raise BadCredentials
        with map_errors():
            raw = base64.b64decode(refresh_token + "=" * (-len(refresh_token) % 4), altchars=b"-_", validate=True)
            named, mac = raw[:-_MAC_BYTES], raw[-_MAC_BYTES:]
            if not hmac.compare_digest(mac, self._mac(named)):
                raise BadCredentials
            session_id, generation = named.decode().split(".")
            return DeviceSessionId(session_id), int(generation)

    def _mac(self, named: bytes) -> bytes:
        return hmac.digest(self._refresh_key, b"hubbub refresh token\0" + named, hashlib.sha256)

    def _now_s(self) -> int:
        return self._clock.now_ms() // 1000
