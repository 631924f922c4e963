"""What a session asks its driver to do, and with which of its methods that is answered."""

from hubbub_server.app.frames import ReadUpTo, ReceivedUpTo, Send, SetTyping
from hubbub_server.domain.frozen import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenTopics:
    """To do: subscribe the user's topics, tell each head, then `opened`."""

    instance_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Submit:
    """To do: submit the command, in the order of these actions, then `answer`."""

    request_id: str
    send: Send


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckToken:
    """To do: check the token, then `reauthenticated` or `answer` with the error."""

    request_id: str
    access_token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TellTyping:
    """To do: tell the members, in the order of these actions, then `answer`."""

    request_id: str
    command: SetTyping


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """To do: mark as read or as received, in any order, then `answer`."""

    request_id: str
    mark: ReadUpTo | ReceivedUpTo


Action = OpenTopics | Submit | CheckToken | TellTyping | Mark
