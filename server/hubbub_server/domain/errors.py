"""The errors that hubbub gives to its callers.

    HubbubError
    ├── InvalidField            a field breaks its rule
    ├── ProtocolBreach          a frame out of order; ends the stream
    ├── BadCredentials          no, forged or unknown credentials
    │   └── CredentialsExpired  the access token ended
    ├── NotPermitted            a member without the right
    │   └── InvitationRefused   a user who would become a member blocks the caller
    ├── NotFound                absent or forbidden, alike
    │   ├── ConversationNotFound
    │   ├── MessageNotFound
    │   └── UserNotFound
    ├── IdReused                a client's id came back with other content
    ├── NameTaken
    ├── SendOrder               the message before it is not committed
    ├── WrongState              full, direct, last owner …
    ├── LimitReached            as many as one may have
    ├── RateLimited
    └── Unavailable             not now; nothing was half-done, or the outcome is unknown and a retry settles it
        ├── LogUnavailable
        │   └── OutcomeUnknown
        ├── StoreUnavailable
        ├── RegistryUnavailable
        ├── DeadlinePassed
        └── NodeDraining

`wire/status.py` maps each to one gRPC status. Ids and numbers are attributes; texts are one lower-case clause.
"""

from collections.abc import Sequence

from hubbub_server.domain.ids import UserId


class HubbubError(Exception):
    """Base of everything that a caller may be told."""


class InvalidField(HubbubError):
    """A field breaks its rule. `field` is its path in the request, `rule` says what would be right."""

    def __init__(self, field: str, rule: str) -> None:
        """Names the field and the rule."""
        super().__init__(f"{field}: {rule}")
        self.field = field
        self.rule = rule


class ProtocolBreach(HubbubError):
    """A frame came out of order or is not allowed here; the stream ends."""


class BadCredentials(HubbubError):
    """No, forged or unknown credentials."""

    def __init__(self, text: str = "sign in again") -> None:
        """Says what was wrong without saying whether the account exists."""
        super().__init__(text)


class CredentialsExpired(BadCredentials):
    """The access token ended; refresh it."""


class NotPermitted(HubbubError):
    """A member without the right to do this."""


class InvitationRefused(NotPermitted):
    """Users who would become members of a group block the caller. `user_ids` are at most NAMED_MAX of them."""

    NAMED_MAX = 50

    def __init__(self, user_ids: Sequence[UserId]) -> None:
        """Names them, at least one."""
        super().__init__("some of these users do not take your invitations")
        self.user_ids = tuple(user_ids[: self.NAMED_MAX])


class NotFound(HubbubError):
    """Absent, or the caller may not know of it: the two answer alike, byte for byte."""


class ConversationNotFound(NotFound):
    """No such conversation, or the caller is not a member."""

    def __init__(self) -> None:
        """Carries no id: absent and foreign must look the same."""
        super().__init__("no such conversation")


class MessageNotFound(NotFound):
    """No such message."""

    def __init__(self) -> None:
        """Carries no number, as ConversationNotFound carries no id."""
        super().__init__("no such message")


class UserNotFound(NotFound):
    """No such user."""

    def __init__(self) -> None:
        """Carries no id, as ConversationNotFound carries no id."""
        super().__init__("no such user")


class IdReused(HubbubError):
    """A client's id came back with other content. `first_number` is the message of the first use, 0 for a group."""

    def __init__(self, first_number: int) -> None:
        """Names the first use."""
        super().__init__("this id was used before with other content")
        self.first_number = first_number


class NameTaken(HubbubError):
    """The login name belongs to another account."""

    def __init__(self) -> None:
        """Says so."""
        super().__init__("the login name is taken")


class SendOrder(HubbubError):
    """`previous_client_message_id` is not committed: that one must be sent first."""

    def __init__(self) -> None:
        """Says what to do."""
        super().__init__("the message before this one is not committed, send that one first")


class WrongState(HubbubError):
    """The conversation is full, direct, or otherwise in a state that refuses this."""


class LimitReached(HubbubError):
    """The caller has as many of these as one may have."""


class RateLimited(HubbubError):
    """Too fast. `retry_after_s` is always positive."""

    def __init__(self, text: str, *, retry_after_s: float) -> None:
        """Says when to come again."""
        super().__init__(text)
        self.retry_after_s = retry_after_s


class Unavailable(HubbubError):
    """Cannot be served now. Retrying with the same ids never does a thing twice."""

    def __init__(self, text: str, *, retry_after_s: float = 1.0) -> None:
        """Says when to come again."""
        super().__init__(text)
        self.retry_after_s = retry_after_s


class LogUnavailable(Unavailable):
    """The topic log cannot be reached or refuses commits."""


class OutcomeUnknown(LogUnavailable):
    """The commit was sent, its answer did not come in time; a retry with the same id finds out."""


class StoreUnavailable(Unavailable):
    """The store of read models cannot be reached."""


class RegistryUnavailable(Unavailable):
    """The registry of nodes cannot be reached: who lives is unknown."""


class DeadlinePassed(Unavailable):
    """The time of the call ran out; what it asked for may still be done, and a retry with the same ids finds out."""


class NodeDraining(Unavailable):
    """This node is leaving; another one answers."""
