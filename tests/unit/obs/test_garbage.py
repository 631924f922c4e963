"""The garbage collector of a server process."""

import gc
from collections.abc import Iterator

import pytest
from prometheus_client import REGISTRY

from hubbub_server.obs.garbage import tame_garbage_collector


@pytest.fixture
def tamed() -> Iterator[None]:
    """Sets the collector up as a server does, and back."""
    thresholds, callbacks = gc.get_threshold(), list(gc.callbacks)
    tame_garbage_collector()
    yield
    gc.callbacks[:] = callbacks
    gc.set_threshold(*thresholds)
    gc.unfreeze()


@pytest.mark.usefixtures("tamed")
def test_each_pause_is_counted() -> None:
    name, labels = "hubbub_gc_pause_seconds_count", {"generation": "2"}
    before = REGISTRY.get_sample_value(name, labels) or 0

    gc.collect()

    assert REGISTRY.get_sample_value(name, labels) == before + 1


@pytest.mark.usefixtures("tamed")
def test_what_the_imports_made_is_not_looked_at() -> None:
    assert gc.get_freeze_count() > len(gc.get_objects())
