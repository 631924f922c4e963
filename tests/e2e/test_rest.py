"""REST through Envoy and a real node: bodies as scripts see them."""

import re
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.e2e.instance import Instance, Person
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(180)

_MASKS = (
    (re.compile(r"[cus][a-z2-7]{26}\b"), "ID"),
    (re.compile(r"\d{4}-\d\d-\d\dT[0-9:.]+Z"), "TIME"),
)


def masked(body: Any) -> Any:
    """Replaces what differs between runs: ids of ours and times."""
    if isinstance(body, dict):
        return {name: masked(value) for name, value in body.items()}
    if isinstance(body, list):
        return [masked(value) for value in body]
    if isinstance(body, str):
        for pattern, word in _MASKS:
            body = pattern.sub(word, body)
    return body


def error_info(reason: str) -> dict[str, Any]:
    return {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": f"ERROR_REASON_{reason}",
        "domain": "hubbub",
    }


@pytest.fixture
def kim(instance: Instance) -> Iterator[Person]:
    """Somebody who has no conversation yet: another one for each test."""
    with Person(instance.url, f"kim-{uuid.uuid4().hex[:8]}") as person:
        yield person


def test_a_conversation_from_creation_to_page(carol: Person, kim: Person) -> None:
    conversation_id = carol.talk_to(kim)
    client_message_id = str(uuid.uuid4())
    sent = carol.send(conversation_id, client_message_id, "grüße 👋")
    assert sent.status_code == 200
    assert masked(sent.json()) == {
        "messageNumber": "1",
        "cursor": {"topicId": "ID", "epoch": 1, "position": "3"},
        "commitTime": "TIME",
    }
    again = carol.send(conversation_id, client_message_id, "grüße 👋")
    assert again.json() == sent.json()
    page = kim.call("GET", f"/v1/conversations/{conversation_id}/messages", params={"pageSize": 1})
    assert page.status_code == 200
    body = masked(page.json())
    body["head"].pop("commitTime", None)
    assert body["messages"] == [
        {
            "messageNumber": "1",
            "countedNumber": "1",
            "senderId": "ID",
            "clientMessageId": client_message_id,
            "content": {"text": {"text": "grüße 👋"}},
            "commitTime": "TIME",
            "changePosition": "3",
        }
    ]
    reused = carol.send(conversation_id, client_message_id, "other content")
    assert reused.status_code == 409
    assert reused.json()["details"][0] == error_info("ID_REUSED") | {"metadata": {"first_number": "1"}}


def test_a_field_beyond_its_bound_names_the_field_and_its_rule(carol: Person, dave: Person) -> None:
    answer = carol.send(carol.talk_to(dave), str(uuid.uuid4()), "x" * 8_001)
    assert answer.status_code == 400
    body = answer.json()
    assert body["code"] == 3
    assert body["details"][0] == error_info("INVALID_FIELD")
    assert body["details"][1]["fieldViolations"][0]["field"] == "content.text.text"


def test_an_error_that_waiting_helps_against_says_how_long(instance: Instance) -> None:
    """C78: retry information reaches scripts, and is positive."""
    with Person(instance.url, "ivan"), httpx.Client(base_url=instance.url, timeout=20) as client:
        answers = [
            client.post("/v1/auth/login", json={"loginName": "ivan", "password": "wrong password"}) for _ in range(12)
        ]
    answer = answers[-1]
    assert answer.status_code == 429
    body = answer.json()
    assert body["code"] == 8
    assert body["details"][0] == error_info("RATE_LIMITED")
    assert body["details"][1]["@type"] == "type.googleapis.com/google.rpc.RetryInfo"
    assert float(body["details"][1]["retryDelay"].removesuffix("s")) > 0


def test_a_wrong_password_and_an_unknown_name_are_equal_byte_for_byte(instance: Instance, carol: Person) -> None:
    answers = [
        httpx.post(f"{instance.url}/v1/auth/login", json={"loginName": name, "password": "wrong password"})
        for name in ("carol", "nobody")
    ]
    assert [answer.status_code for answer in answers] == [401, 401]
    assert answers[0].content == answers[1].content
    assert answers[0].json()["details"] == [error_info("INVALID_CREDENTIALS")]


def test_absent_and_foreign_conversations_are_equal_byte_for_byte(
    instance: Instance, carol: Person, dave: Person
) -> None:
    with Person(instance.url, "judy") as stranger:
        answers = [
            stranger.call("GET", f"/v1/conversations/{conversation_id}")
            for conversation_id in (carol.talk_to(dave), "c" + "a" * 26, "no id at all")
        ]
    assert {answer.status_code for answer in answers} == {404}
    assert len({answer.content for answer in answers}) == 1
    assert answers[0].json()["details"] == [error_info("CONVERSATION_NOT_FOUND")]


@pytest.mark.parametrize("token", ["", "Bearer", "Bearer x.y.z", "Basic YTpi"])
def test_without_a_good_token_nothing_is_told(instance: Instance, token: str) -> None:
    answer = httpx.get(f"{instance.url}/v1/conversations", headers={"authorization": token} if token else {})
    assert answer.status_code == 401
    assert answer.json()["details"] == [error_info("INVALID_CREDENTIALS")]


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        (
            "/v1/unknown",
            404,
            {"code": 5, "message": "Could not resolve /v1/unknown to a method.", "details": []},
        ),
        (
            "/v1/users:lookup?login_name=carol&color=red",
            400,
            {
                "code": 3,
                "message": 'Could not find field "color" in the type "hubbub.user.v1.LookupUserRequest".',
                "details": [error_info("INVALID_FIELD") | {"metadata": {}}],
            },
        ),
    ],
)
def test_what_no_call_matches_is_refused(carol: Person, path: str, status: int, body: dict[str, Any]) -> None:
    answer = carol.call("GET", path)
    assert answer.status_code == status
    assert answer.json() == body


def test_broken_json_is_refused(instance: Instance) -> None:
    answer = httpx.post(f"{instance.url}/v1/auth/login", content=b'{"loginName": "carol", ')
    assert answer.status_code == 400
    assert answer.json()["code"] == 3
    assert answer.json()["details"] == [error_info("INVALID_FIELD") | {"metadata": {}}]


def test_a_body_that_is_too_large_is_refused(instance: Instance) -> None:
    answer = httpx.post(f"{instance.url}/v1/auth/login", content=b'{"loginName": "' + b"x" * 262_144 + b'"}')
    assert answer.status_code == 413
    assert answer.json() == {
        "code": 3,
        "message": "Payload Too Large",
        "details": [error_info("INVALID_FIELD") | {"metadata": {}}],
    }


def test_fields_may_be_named_in_both_ways_and_numbers_are_strings(carol: Person) -> None:
    by_both = [carol.call("GET", f"/v1/users:lookup?{name}=carol").json() for name in ("login_name", "loginName")]
    assert by_both[0] == by_both[1] == {"user": {"userId": carol.user_id, "loginName": "carol", "displayName": "Carol"}}


def test_what_is_unread_and_what_is_wanted(carol: Person, kim: Person) -> None:
    """Every verb of the markers and settings, through the transcoder and a real log."""
    conversation_id = carol.talk_to(kim)
    for _ in range(2):
        assert carol.send(conversation_id, str(uuid.uuid4()), "hello").status_code == 200
    place = f"/v1/conversations/{conversation_id}"
    counters = kim.call("GET", "/v1/me/counters").json()
    assert counters["badgeCount"] == "2"
    assert counters["counters"][0]["readState"]["unreadCount"] == "2"

    read = kim.call("POST", f"{place}:markRead", {"messageNumber": "2"})
    assert read.json()["marker"] == {"epoch": 1, "messageNumber": "2", "countedNumber": "2"}
    marked = kim.call("POST", f"{place}:markUnread", {}).json()
    assert kim.call("GET", "/v1/me/counters").json()["badgeCount"] == "1"
    body = {"messageNumber": "2", "unreadMarkPosition": marked["unreadMarkPosition"]}
    assert kim.call("POST", f"{place}:markRead", body).status_code == 200
    assert "badgeCount" not in kim.call("GET", "/v1/me/counters").json()

    body = {"preferences": {"sendsTyping": False, "status": {"text": "away"}}, "updateMask": "sendsTyping,status"}
    updated = kim.call("PATCH", "/v1/me/preferences", body)
    assert updated.status_code == 200, updated.text
    assert kim.call("GET", "/v1/me/preferences").json()["preferences"] == updated.json()["preferences"]
    body = {"preferences": {"pinned": True}, "updateMask": "pinned"}
    assert kim.call("PATCH", f"{place}/preferences", body).json()["preferences"]["pinned"]
    assert kim.call("PUT", f"{place}/draft", {"text": "I th"}).status_code == 200
    assert kim.call("GET", "/v1/me/drafts").json()["drafts"][0]["text"] == "I th"

    blocked = f"/v1/me/blocked-users/{carol.user_id}"
    assert kim.call("PUT", blocked).status_code == 200
    assert kim.call("GET", "/v1/me/blocked-users").json()["userIds"] == [carol.user_id]
    refused = carol.send(conversation_id, str(uuid.uuid4()), "hello")
    assert refused.status_code == 403
    assert refused.json()["details"] == [error_info("NOT_PERMITTED")]
    assert kim.call("DELETE", blocked).status_code == 200
    assert carol.send(conversation_id, str(uuid.uuid4()), "hello").status_code == 200


def test_who_received_and_read_and_was_mentioned_in_a_group(carol: Person, kim: Person, dave: Person) -> None:
    """Through the transcoder, a real log and a real store; the worker is a moment behind, mentions are not."""
    spec = {"requestId": str(uuid.uuid4()), "group": {"title": "tea", "userIds": [kim.user_id]}}
    made = carol.call("POST", "/v1/conversations", spec).json()["view"]["conversation"]
    assert (made["receiptsMode"], made["settings"]) == (
        "RECEIPTS_MODE_FULL",
        {"receiptsLimit": "RECEIPTS_MODE_FULL"},
    )
    place = f"/v1/conversations/{made['conversationId']}"
    entities = [{"length": 4, "userMention": {"userId": kim.user_id}}]
    body = {"clientMessageId": str(uuid.uuid4()), "content": {"text": {"text": "@kim hello", "entities": entities}}}
    assert carol.call("POST", f"{place}/messages", body).status_code == 200
    mentions = kim.call("GET", "/v1/me/mentions", params={"pageSize": 5}).json()["mentions"]
    assert [(each["conversationId"], each["message"]["messageNumber"]) for each in mentions] == [
        (made["conversationId"], "1")
    ]

    delivered = kim.call("POST", f"{place}:markDelivered", {"messageNumber": "1"})
    assert delivered.json()["messageNumber"] == "1", delivered.text
    expected = [{"userId": kim.user_id, "deliveredNumber": "1"}]
    wait_until(lambda: carol.call("GET", f"{place}/markers").json().get("markers") == expected)

    limit = {"settings": {"receiptsLimit": "RECEIPTS_MODE_COUNT_ONLY"}, "updateMask": "receiptsLimit"}
    assert kim.call("PATCH", place, limit).status_code == 403
    assert carol.call("PATCH", place, limit).json()["settings"] == limit["settings"]
    refused = carol.call("GET", f"{place}/markers")
    assert refused.json()["details"] == [error_info("CONVERSATION_STATE")]

    assert dave.call("PUT", f"/v1/me/blocked-users/{carol.user_id}").status_code == 200
    refused = carol.call("POST", f"{place}/members", {"userIds": [dave.user_id]})
    assert refused.status_code == 403
    assert refused.json()["details"] == [error_info("NOT_PERMITTED") | {"metadata": {"user_ids": dave.user_id}}]
    assert dave.call("DELETE", f"/v1/me/blocked-users/{carol.user_id}").status_code == 200
