"""Log lines as machines read them."""

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from hubbub_server.obs.logging import set_up_logging


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_line_is_one_json_object_with_who_says_it(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("info", role="node", name="node-1")
    structlog.get_logger().info("node serves", port=1)
    line = json.loads(capsys.readouterr().out)
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "node serves", "level": "info", "role": "node", "name": "node-1", "port": 1}


def test_an_exception_stays_on_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("info", role="node", name="node-1")
    try:
        raise ValueError("broken")
    except ValueError:
        structlog.get_logger().exception("rpc failed")
    (line,) = capsys.readouterr().out.splitlines()
    assert "ValueError: broken" in json.loads(line)["exception"]


def test_what_is_below_the_level_is_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("warning", role="node", name="node-1")
    structlog.get_logger().info("node serves")
    logging.getLogger("driver").info("chatter")
    assert capsys.readouterr().out == ""


def test_warnings_of_drivers_have_the_same_form(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("info", role="node", name="node-1")
    logging.getLogger("driver").warning("lost %s", "it")
    line = json.loads(capsys.readouterr().out)
    assert (line["event"], line["level"], line["role"]) == ("lost it", "warning", "node")


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="debug, info, warning, error"):
        set_up_logging("loud", role="node", name="node-1")
