"""What a repeated message must match."""

import pytest

from hubbub_server.domain.errors import InvalidField
from hubbub_server.domain.message import TextContent, UnknownContent, check_content, content_hash, request_hash


def test_content_of_a_newer_kind_is_never_accepted_from_a_client() -> None:
    with pytest.raises(InvalidField) as refused:
        check_content("content", UnknownContent())
    assert refused.value.field == "content"


def test_text_is_named_by_its_path_when_it_is_refused() -> None:
    with pytest.raises(InvalidField) as refused:
        check_content("content", TextContent(text=""))
    assert refused.value.field == "content.text.text"


def test_content_hash_tells_texts_apart_and_is_fixed() -> None:
    """The value is stored with every message: it may never change."""
    assert content_hash(TextContent(text="hello")) == "4947313096215c45e7ca2a7153f381e4"
    assert content_hash(TextContent(text="hello ")) != content_hash(TextContent(text="hello"))


def test_parts_of_a_request_never_flow_together() -> None:
    hashes = {request_hash("a", "bc"), request_hash("ab", "c"), request_hash("abc"), request_hash("a", "b", "c")}
    assert len(hashes) == 4
