"""One instance for all tests that do not break it."""

from collections.abc import Iterator

import pytest

from tests.e2e.instance import Instance, Person


@pytest.fixture(scope="session")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """A running instance."""
    with Instance(tmp_path_factory.mktemp("instance") / "var") as running:
        yield running


@pytest.fixture(scope="session")
def carol(instance: Instance) -> Iterator[Person]:
    """Somebody."""
    with Person(instance.url, "carol") as person:
        yield person


@pytest.fixture(scope="session")
def dave(instance: Instance) -> Iterator[Person]:
    """Somebody else."""
    with Person(instance.url, "dave") as person:
        yield person
