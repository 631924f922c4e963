"""What is sent, in which order, and again when it was not answered."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from hubbub.chat.v1 import frame_pb2
from hubbub.conversation.v1 import conversation_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from hubbub_client.backoff import Backoff
from hubbub_client.errors import ClientClosed, HubbubError, InvalidField
from hubbub_client.model import Sent
from hubbub_client.outbox import IN_FLIGHT_MAX, Outbox

NOW = datetime(2026, 11, 25, tzinfo=UTC)
UNAVAILABLE = ("BACKEND_UNAVAILABLE", code_pb2.UNAVAILABLE)
SEND_ORDER = ("SEND_ORDER", code_pb2.FAILED_PRECONDITION)
INVALID_FIELD = ("INVALID_FIELD", code_pb2.INVALID_ARGUMENT)


def rejected(request_id: str, why: tuple[str, int], retry_delay_s: int = 0) -> frame_pb2.Rejected:
    """A refusal as servers send it."""
    info, retry = any_pb2.Any(), any_pb2.Any()
    info.Pack(error_details_pb2.ErrorInfo(domain="hubbub", reason=f"ERROR_REASON_{why[0]}"))
    retry.Pack(error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=retry_delay_s)))
    details = [info, retry] if retry_delay_s else [info]
    return frame_pb2.Rejected(
        request_id=request_id, status=status_pb2.Status(code=why[1], message="no", details=details)
    )


def reply(request_id: str, number: int) -> frame_pb2.Reply:
    """An answer as servers send it."""
    cursor = conversation_pb2.Cursor(topic_id="c", epoch=1, position=number)
    sent = frame_pb2.SendMessageResponse(message_number=number, cursor=cursor)
    return frame_pb2.Reply(request_id=request_id, send_message=sent)


@dataclass
class Outcomes:
    """What became of each message."""

    by_id: dict[str, Sent | HubbubError] = field(default_factory=dict)

    def settle(self, message_id: str) -> Callable[[Sent | HubbubError], None]:
        def take(outcome: Sent | HubbubError) -> None:
            assert message_id not in self.by_id, "settled twice"
            self.by_id[message_id] = outcome

        return take


def new_outbox(*message_ids: str, conversation_id: str = "c") -> tuple[Outbox, Outcomes]:
    outbox, outcomes = Outbox(lambda: Backoff(0.2, 10.0, lambda: 1.0)), Outcomes()
    for message_id in message_ids:
        outbox.add(conversation_id, message_id, "text", NOW, outcomes.settle(message_id))
    return outbox, outcomes


def written(outbox: Outbox, now_s: float = 0.0) -> list[frame_pb2.Command]:
    """Everything that can be written now."""
    commands = []
    while (command := outbox.next_command(now_s)) is not None:
        commands.append(command)
    return commands


def ids(commands: list[frame_pb2.Command]) -> list[tuple[str, str]]:
    return [
        (command.send_message.client_message_id, command.send_message.previous_client_message_id)
        for command in commands
    ]


def test_each_message_names_the_unanswered_one_before_it() -> None:
    outbox, _ = new_outbox("m1", "m2", "m3")

    assert ids(written(outbox)) == [("m1", ""), ("m2", "m1"), ("m3", "m2")]


def test_a_message_after_an_answered_one_names_none() -> None:
    outbox, outcomes = new_outbox("m1")
    [first] = written(outbox)
    outbox.receive_reply(reply(first.request_id, 7))
    outbox.add("c", "m2", "text", NOW, outcomes.settle("m2"))

    assert ids(written(outbox)) == [("m2", "")]
    assert isinstance(sent := outcomes.by_id["m1"], Sent)
    assert sent.message_number == 7


def test_after_a_cut_everything_unanswered_is_written_again_under_the_same_ids() -> None:
    """C06, G3."""
    outbox, _ = new_outbox("m1", "m2", "m3")
    commands = written(outbox)
    outbox.receive_reply(reply(commands[0].request_id, 1))
    outbox.close_stream()

    again = written(outbox)

    assert ids(again) == [("m2", ""), ("m3", "m2")]
    assert not {command.request_id for command in again} & {command.request_id for command in commands}


def test_an_unavailable_server_pauses_the_conversation_for_the_delay_it_asks_for() -> None:
    outbox, outcomes = new_outbox("m1")
    outbox.add("other", "x1", "text", NOW, outcomes.settle("x1"))
    first, _ = written(outbox)
    outbox.receive_rejected(rejected(first.request_id, UNAVAILABLE, retry_delay_s=3), 100.0)

    assert written(outbox, 102.9) == []
    assert outbox.next_wake_s(102.9) == 103.0
    assert ids(written(outbox, 103.0)) == [("m1", "")]


def test_without_a_delay_the_pause_grows() -> None:
    outbox, _ = new_outbox("m1")
    now_s = 0.0
    for pause_s in (0.2, 0.4, 0.8):
        [command] = written(outbox, now_s)
        outbox.receive_rejected(rejected(command.request_id, UNAVAILABLE), now_s)
        assert outbox.next_wake_s(now_s) == now_s + pause_s
        now_s += pause_s


def test_messages_refused_for_order_follow_the_one_that_is_repeated() -> None:
    outbox, _ = new_outbox("m1", "m2", "m3")
    first, second, third = written(outbox)
    outbox.receive_rejected(rejected(first.request_id, UNAVAILABLE, retry_delay_s=1), 0.0)
    outbox.receive_rejected(rejected(second.request_id, SEND_ORDER), 0.0)
    outbox.receive_rejected(rejected(third.request_id, SEND_ORDER), 0.0)

    assert ids(written(outbox, 1.0)) == [("m1", ""), ("m2", "m1"), ("m3", "m2")]


def test_messages_after_one_that_failed_for_good_go_on() -> None:
    outbox, outcomes = new_outbox("m1", "m2", "m3")
    first, second, third = written(outbox)
    outbox.receive_rejected(rejected(first.request_id, INVALID_FIELD), 0.0)
    outbox.receive_rejected(rejected(second.request_id, SEND_ORDER), 0.0)
    outbox.receive_rejected(rejected(third.request_id, SEND_ORDER), 0.0)

    assert isinstance(outcomes.by_id["m1"], InvalidField)
    assert ids(written(outbox)) == [("m2", ""), ("m3", "m2")]


def test_endless_refusals_for_order_do_not_spin() -> None:
    outbox, _ = new_outbox("m1")
    for _ in range(2):
        [command] = written(outbox)
        outbox.receive_rejected(rejected(command.request_id, SEND_ORDER), 0.0)
    [command] = written(outbox)
    outbox.receive_rejected(rejected(command.request_id, SEND_ORDER), 0.0)

    assert written(outbox) == []
    assert outbox.next_wake_s(0.0) is not None


def test_no_more_than_the_window_is_in_flight() -> None:
    outbox, _ = new_outbox(*map(str, range(IN_FLIGHT_MAX + 1)))
    commands = written(outbox)

    assert len(commands) == IN_FLIGHT_MAX
    outbox.receive_reply(reply(commands[0].request_id, 1))
    assert len(written(outbox)) == 1
    outbox.close_stream()
    assert len(written(outbox)) == IN_FLIGHT_MAX


def test_a_withdrawn_message_is_neither_written_nor_settled() -> None:
    outbox, outcomes = new_outbox("m1", "m2")
    first, _ = written(outbox)
    outbox.withdraw("c", "m1")
    outbox.receive_reply(reply(first.request_id, 1))
    outbox.close_stream()

    assert ids(written(outbox)) == [("m2", "")]
    assert outcomes.by_id == {}


def test_stopping_settles_everything() -> None:
    outbox, outcomes = new_outbox("m1", "m2")
    written(outbox)
    outbox.fail_all(ClientClosed("closed"))

    assert set(outcomes.by_id) == {"m1", "m2"}
    assert len(outbox) == 0


class Server:
    """Decides commands in order as the contract says, and may lose the answer or tell an unknown outcome."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def decide(self, send: frame_pb2.SendMessageRequest, request_id: str, fate: str) -> frame_pb2.ServerFrame:
        message_id = send.client_message_id
        if message_id not in self.log:
            if fate == "refused":
                return frame_pb2.ServerFrame(rejected=rejected(request_id, INVALID_FIELD))
            if send.previous_client_message_id and send.previous_client_message_id not in self.log:
                return frame_pb2.ServerFrame(rejected=rejected(request_id, SEND_ORDER))
            if fate != "unavailable":
                self.log.append(message_id)
        if fate in ("unavailable", "unknown"):
            return frame_pb2.ServerFrame(rejected=rejected(request_id, UNAVAILABLE))
        return frame_pb2.ServerFrame(reply=reply(request_id, self.log.index(message_id) + 1))


FATES = st.sampled_from(("fine", "fine", "fine", "unavailable", "unknown", "refused"))


@given(data=st.data(), count=st.integers(1, 12))
@settings(max_examples=300, deadline=None)
def test_whatever_fails_each_message_is_committed_once_in_the_order_of_its_client(
    data: st.DataObject, count: int
) -> None:
    """C06, C07, G2, G3."""
    message_ids = [f"m{number}" for number in range(count)]
    outbox, outcomes = new_outbox(*message_ids)
    server, now_s, answers = Server(), 0.0, list[frame_pb2.ServerFrame]()
    for step in range(10_000):
        now_s += 20.0
        is_calm = step > 60
        for command in written(outbox, now_s)[: count if is_calm else data.draw(st.integers(0, count))]:
            fate = "fine" if is_calm else data.draw(FATES)
            answers.append(server.decide(command.send_message, command.request_id, fate))
        arrived = len(answers) if is_calm else data.draw(st.integers(0, len(answers)))
        for answer in answers[:arrived]:
            if answer.HasField("reply"):
                outbox.receive_reply(answer.reply)
            else:
                outbox.receive_rejected(answer.rejected, now_s)
        del answers[:arrived]
        if is_calm or data.draw(st.booleans()):
            outbox.close_stream()
            answers.clear()
        if len(outbox) == 0:
            break

    numbers = {message_id: one.message_number for message_id, one in outcomes.by_id.items() if isinstance(one, Sent)}
    assert set(outcomes.by_id) == set(message_ids)
    assert [message_id for message_id in message_ids if message_id in numbers] == server.log
    assert all(server.log[number - 1] == message_id for message_id, number in numbers.items())
