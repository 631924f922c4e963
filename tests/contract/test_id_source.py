"""What every IdSource makes: ids that are safe as subject tokens, each another one."""

import re

import pytest

from hubbub_server.adapters.system.ids import RandomIds
from hubbub_server.domain.ids import is_conversation_id, is_user_id
from hubbub_server.ports.clock import IdSource
from tests.support.fakes.clock import FakeIds

pytestmark = pytest.mark.parametrize("ids", [RandomIds(), FakeIds()], ids=["random", "fake"])


def test_id_is_the_prefix_and_26_characters(ids: IdSource) -> None:
    for _ in range(100):
        assert re.fullmatch(r"d[a-z0-9]{26}", ids.new_id("d"))


def test_ids_have_the_form_of_topics(ids: IdSource) -> None:
    assert is_user_id(ids.new_id("u"))
    assert is_conversation_id(ids.new_id("c"))


def test_no_id_comes_twice(ids: IdSource) -> None:
    assert len({ids.new_id("u") for _ in range(10_000)}) == 10_000
