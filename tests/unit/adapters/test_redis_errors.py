"""Nothing that redis-py or the network raise gets out as it is: a node must not end by its registry."""

import pytest
from redis import exceptions

from hubbub_server.adapters.redis.errors import map_errors
from hubbub_server.domain.errors import RegistryUnavailable

DRIVER_ERRORS = [
    cls
    for cls in vars(exceptions).values()
    if isinstance(cls, type)
    and issubclass(cls, exceptions.RedisError)
    and cls not in (exceptions.MovedError, exceptions.AskError)
]


@pytest.mark.parametrize("error", [*DRIVER_ERRORS, TimeoutError, ConnectionResetError, OSError])
def test_every_error_of_driver_and_network_says_that_the_registry_is_unavailable(error: type[Exception]) -> None:
    with pytest.raises(RegistryUnavailable), map_errors():
        raise error("the reason")


def test_our_own_faults_pass() -> None:
    with pytest.raises(KeyError), map_errors():
        raise KeyError("life")
