"""Sessions without a transport, and the frames that go in and out."""

from hubbub_server.app.authenticate import Caller
from hubbub_server.app.frames import Hello, Outgoing, Send, StreamCommand
from hubbub_server.app.session import Session
from hubbub_server.domain.commands import Sent
from hubbub_server.domain.cursor import Cursor, TopicHead
from hubbub_server.domain.ids import DeviceSessionId, TopicId, UserId
from tests.support.app_node import BOB, GROUP, message_id, send

TOKEN_LIFE_S = 600.0


HELLO = Hello(instance_id=message_id(1))


def caller(user_id: UserId = BOB, *, device: str = "d1", token_ends_s: float = TOKEN_LIFE_S) -> Caller:
    return Caller(
        user_id=user_id, device_session_id=DeviceSessionId(device), token_expire_time_ms=round(token_ends_s * 1000)
    )


def new_session(*, takes_commands: bool = True, token_ends_s: float = TOKEN_LIFE_S) -> Session:
    return Session(
        session_id="s1", caller=caller(token_ends_s=token_ends_s), takes_commands=takes_commands, now_s=0.0, now_ms=0
    )


def live_session(*, takes_commands: bool = True, token_ends_s: float = TOKEN_LIFE_S) -> Session:
    session = new_session(takes_commands=takes_commands, token_ends_s=token_ends_s)
    session.receive(HELLO, 0.0)
    session.opened()
    take_all(session)
    return session


def take_all(session: Session) -> list[Outgoing]:
    return list(session.take(1 << 30))


def command(request_id: str = "r1") -> StreamCommand:
    return StreamCommand(request_id=request_id, payload=Send(conversation_id=GROUP, command=send(BOB, 1)))


def sent(number: int = 1) -> Sent:
    cursor = Cursor(topic_id=GROUP, epoch=1, position=number)
    return Sent(message_number=number, cursor=cursor, commit_time_ms=0)


def head(position: int, *, topic_id: TopicId = GROUP, epoch: int = 1) -> TopicHead:
    return TopicHead(cursor=Cursor(topic_id=topic_id, epoch=epoch, position=position))
