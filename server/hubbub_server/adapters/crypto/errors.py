"""Turns what argon2, joserfc and bad base64 raise into our errors: whatever a caller sent, it is no credential."""

from collections.abc import Iterator
from contextlib import contextmanager

from joserfc.errors import ExpiredTokenError, JoseError

from hubbub_server.domain.errors import BadCredentials, CredentialsExpired


@contextmanager
def map_errors() -> Iterator[None]:
    """Raises CredentialsExpired for a token of ours that ended, BadCredentials for everything else that is wrong."""
    try:
        yield
    except ExpiredTokenError as error:
        raise CredentialsExpired("the access token ended") from error
    except (JoseError, ValueError, TypeError, KeyError) as error:
        raise BadCredentials from error
