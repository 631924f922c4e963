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
    person = Person(instance.url, "carol")
    yield person
    person.close()


@pytest.fixture(scope="session")
def dave(instance: Instance) -> Iterator[Person]:
    """Somebody else."""
    person = Person(instance.url, "dave")
    yield person
    person.close()
