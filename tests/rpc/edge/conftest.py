"""Nodes run on uvloop where it is installed, and its transports are not those of asyncio: tests here run on both."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Says on which loops each test runs."""
    return {"asyncio": asyncio.SelectorEventLoop, "uvloop": uvloop.new_event_loop}


@pytest.fixture
def transport() -> str:
    """What serves the streaming methods."""
    return "edge"
