"""All use cases of a node, made of what they share: the same in main as in tests."""

from contextlib import AsyncExitStack

from hubbub_server.app.authenticate import Authenticate
from hubbub_server.app.conversation_signals import ConversationSignals
from hubbub_server.app.conversations import Conversations
from hubbub_server.app.effects import BlockEffects, MembershipEffects
from hubbub_server.app.marker_windows import WINDOW_S
from hubbub_server.app.markers import Markers
from hubbub_server.app.own_mentions import OwnMentions
from hubbub_server.app.presence import Presence
from hubbub_server.app.read_history import ReadHistory
from hubbub_server.app.read_states import ReadStates
from hubbub_server.app.resume import ResumeTokens
from hubbub_server.app.settings import UserSettings
from hubbub_server.app.streams import DRAIN_TIMEOUT_S, MAX_OPENING, Streams
from hubbub_server.app.sync import Sync
from hubbub_server.app.topic_hub import TopicHub
from hubbub_server.app.topic_reader import TopicReader
from hubbub_server.app.typing_signals import TypingSignals
from hubbub_server.app.users import Users
from hubbub_server.domain.frozen import dataclass
from hubbub_server.domain.limits import GROUP_MAX_MEMBERS, TYPING_MAX_MEMBERS
from hubbub_server.ports.accounts import AccountStore
from hubbub_server.ports.clock import Clock, IdSource
from hubbub_server.ports.dead_letters import DeadLetters
from hubbub_server.ports.topic_directory import TopicDirectory


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeParts:
    """What the use cases of a node share, open."""

    hub: TopicHub
    reader: TopicReader
    directory: TopicDirectory
    letters: DeadLetters
    accounts: AccountStore
    authenticate: Authenticate
    signals: ConversationSignals
    presence: Presence
    clock: Clock
    ids: IdSource
    id_key: bytes
    """Derives conversation ids and signs tokens: the same on all nodes, for ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeBounds:
    """What an operator or a test may choose; the use cases say what each means."""

    group_max_members: int = GROUP_MAX_MEMBERS
    typing_max_members: int = TYPING_MAX_MEMBERS
    max_opening_streams: int = MAX_OPENING
    drain_timeout_s: float = DRAIN_TIMEOUT_S
    marker_window_s: float = WINDOW_S


@dataclass(frozen=True, slots=True, kw_only=True)
class UseCases:
    """What the services do."""

    authenticate: Authenticate
    users: Users
    conversations: Conversations
    history: ReadHistory
    sync: Sync
    markers: Markers
    mentions: OwnMentions
    settings: UserSettings
    streams: Streams
    typing: TypingSignals
    presence: Presence


async def open_use_cases(stack: AsyncExitStack, node: NodeParts, bounds: NodeBounds) -> UseCases:
    """Makes the use cases and opens those that are to be opened; `stack` closes them."""
    hub, reader, accounts, id_key = node.hub, node.reader, node.accounts, node.id_key
    read_states = ReadStates(hub=hub, reader=reader)
    memberships = MembershipEffects(hub)
    typing = TypingSignals(hub=hub, signals=node.signals, clock=node.clock, max_members=bounds.typing_max_members)
    markers = Markers(
        hub=hub,
        reader=reader,
        read_states=read_states,
        effects=memberships,
        clock=node.clock,
        news=node.signals,
        window_s=bounds.marker_window_s,
    )
    streams = Streams(
        hub=hub,
        authenticate=node.authenticate,
        clock=node.clock,
        ids=node.ids,
        resume_tokens=ResumeTokens(id_key, node.clock),
        markers=await stack.enter_async_context(markers),
        typing=typing,
        drain_timeout_s=bounds.drain_timeout_s,
        max_opening=bounds.max_opening_streams,
        tracker=node.presence.tracker,
    )
    return UseCases(
        authenticate=node.authenticate,
        users=Users(accounts=accounts),
        conversations=Conversations(
            hub=hub,
            reader=reader,
            read_states=read_states,
            effects=memberships,
            accounts=accounts,
            id_key=id_key,
            group_max_members=bounds.group_max_members,
        ),
        history=ReadHistory(hub=hub, reader=reader, directory=node.directory),
        sync=Sync(hub=hub, reader=reader),
        markers=markers,
        mentions=OwnMentions(
            hub=hub,
            reader=reader,
            read_states=read_states,
            directory=node.directory,
            letters=node.letters,
            id_key=id_key,
        ),
        settings=UserSettings(
            hub=hub,
            read_states=read_states,
            membership_effects=memberships,
            block_effects=BlockEffects(hub),
            accounts=accounts,
            id_key=id_key,
        ),
        streams=await stack.enter_async_context(streams),
        typing=typing,
        presence=node.presence,
    )
