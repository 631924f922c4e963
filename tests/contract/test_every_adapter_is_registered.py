"""An adapter that no contract suite runs on has promised nothing."""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from types import ModuleType

import hubbub_server.adapters
import hubbub_server.ports
import tests.contract
import tests.support

OPENED_BY_ANOTHER = {"NatsRecordConsumer"}


def modules(package: ModuleType) -> Iterator[ModuleType]:
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        yield importlib.import_module(module.name)


def own_classes(package: ModuleType) -> Iterator[type]:
    for module in modules(package):
        for _, cls in inspect.getmembers(module, inspect.isclass):
            if cls.__module__ == module.__name__:
                yield cls


def methods(cls: type) -> set[str]:
    return {name for name, _ in inspect.getmembers(cls, inspect.isfunction) if not name.startswith("_")}


def test_every_class_that_implements_a_port_is_run_by_a_suite() -> None:
    """Implements: has the methods of a port. Is run: a suite, or a registry of the suites, imports it."""
    ports = [cls for cls in own_classes(hubbub_server.ports) if getattr(cls, "_is_protocol", False)]
    adapters = {cls for cls in own_classes(hubbub_server.adapters) for port in ports if methods(port) <= methods(cls)}
    run = {
        value
        for package in (tests.contract, tests.support)
        for m in modules(package)
        for value in vars(m).values()
        if isinstance(value, type)
    }

    assert {cls.__qualname__ for cls in adapters - run} == OPENED_BY_ANOTHER
