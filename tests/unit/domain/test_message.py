"""What a repeated message must match."""

import pytest

from hubbub_server.domain.errors import InvalidField
from hubbub_server.domain.message import (
    Link,
    TextContent,
    TextEntity,
    UnknownContent,
    check_content,
    content_hash,
    request_hash,
)

UNSEEN = " \t\n\u0000\u007f\u0085\u009f\u00a0\u200b\u2028\u202e\u2066"


def linked(url: str) -> TextContent:
    return TextContent(text="x", entities=(TextEntity(start=0, length=1, kind=Link(url=url)),))


def test_content_of_a_newer_kind_is_never_accepted_from_a_client() -> None:
    with pytest.raises(InvalidField) as refused:
        check_content("content", UnknownContent())
    assert refused.value.field == "content"


def test_text_is_named_by_its_path_when_it_is_refused() -> None:
    with pytest.raises(InvalidField) as refused:
        check_content("content", TextContent(text=""))
    assert refused.value.field == "content.text.text"


@pytest.mark.parametrize("url", ["https://x", "HTTP://x", "mailto:a@b", "https://می‌خواهم"])
def test_link_is_accepted(url: str) -> None:
    check_content("content", linked(url))


@pytest.mark.parametrize("url", ["javascript:x", "https://", "a https://x", *(f"https://a{c}b" for c in UNSEEN)])
def test_link_of_another_sort_or_with_what_is_not_seen_is_refused(url: str) -> None:
    """C62: a link shows where it leads."""
    with pytest.raises(InvalidField) as caught:
        check_content("content", linked(url))
    assert caught.value.field == "content.text.entities[0].link.url"


def test_content_hash_tells_texts_apart_and_is_fixed() -> None:
    """The value is stored with every message: it may never change."""
    assert content_hash(TextContent(text="hello")) == "4947313096215c45e7ca2a7153f381e4"
    assert content_hash(TextContent(text="hello ")) != content_hash(TextContent(text="hello"))


def test_parts_of_a_request_never_flow_together() -> None:
    hashes = {request_hash("a", "bc"), request_hash("ab", "c"), request_hash("abc"), request_hash("a", "b", "c")}
    assert len(hashes) == 4
