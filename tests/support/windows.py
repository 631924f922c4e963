"""Sessions with a window of unacknowledged events."""

from hubbub_server.app.active_topic import Delivery
from hubbub_server.app.frames import Ack, Events, Hello, Welcome
from hubbub_server.app.session import Session
from tests.support.app_node import BOB, GROUP, message_id
from tests.support.sessions import caller, head, take_all

WINDOW = 300


class Resume:
    """Tokens of a stream: every one is understood."""

    def take_up(self, token: str) -> bool:
        return bool(token)

    def token(self) -> str:
        return "token"


def new_session(window: int, *, takes_commands: bool = True) -> tuple[Session, Welcome]:
    """Returns a session past Hello and Heads, and the Welcome that it said."""
    made = Session(
        session_id="s1", caller=caller(BOB), takes_commands=takes_commands, now_s=0.0, now_ms=0, resume=Resume()
    )
    made.receive(Hello(instance_id=message_id(1), ack_window_events=window), 0.0)
    made.opened()
    (welcome, _) = take_all(made)
    assert isinstance(welcome, Welcome)
    return made, welcome


def with_window(window: int = WINDOW) -> Session:
    return new_session(window)[0]


def deliver(session: Session, *counts: int) -> None:
    """Delivers records of so many events."""
    for count in counts:
        frame = Events(body=b"x" * count, count=count)
        session.deliver(Delivery(topic_id=GROUP, head=head(1), frame=frame, turns=()))


def has_output(session: Session) -> bool:
    """A call, as what a property said once is not true for ever."""
    return session.has_output


def ack(session: Session, processed: int) -> None:
    session.receive(Ack(processed_events=processed), 0.0)
