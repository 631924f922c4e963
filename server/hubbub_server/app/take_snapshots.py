"""Writes what a topic's log has come to beside the log, so that a decision needs neither old records nor the store."""

from dataclasses import replace

from hubbub_server.app.topic_loader import TopicLoader
from hubbub_server.domain.conversation import ConversationState
from hubbub_server.domain.ids import TopicId
from hubbub_server.domain.topic import TopicState
from hubbub_server.obs import metrics
from hubbub_server.ports.topic_states import Snapshot, TopicStates


class UnknownEvents(Exception):
    """The topic has events of a newer version: whoever knows them takes its snapshot."""


class TakeSnapshots:
    """Takes snapshots. Anyone may, at any time: a late one never overwrites a newer one."""

    def __init__(self, *, loader: TopicLoader, states: TopicStates) -> None:
        """Takes the ports."""
        self._loader = loader
        self._states = states

    async def take(self, topic_id: TopicId) -> None:
        """Writes the topic's state at its head.

        Raises:
            LogUnavailable, StoreUnavailable: the state cannot be had or written; TopicDamaged: it never can be as it is.
            UnknownEvents, SnapshotTooLarge: there is none that can be kept.
            RecordUndecodable, ValueError: a record is poison.
        """
        loaded = await self._loader.load(topic_id)
        if loaded.state.has_unknown_event:
            raise UnknownEvents(topic_id)
        if loaded.sequence > 0:  # without a record in the log it was trimmed, so its snapshot is there, or never made
            state = _without_ids(loaded.state)
            await self._states.write(Snapshot(topic_id=topic_id, state=state, sequence=loaded.sequence))
            metrics.snapshots.inc()

    async def cover(self, topic_id: TopicId, *, epoch: int, sequence: int) -> None:
        """Makes sure that the snapshot of a topic has everything up to a record of its log. Raises as `take`."""
        snapshot = await self._states.read(topic_id)
        if snapshot is None or (snapshot.state.epoch, snapshot.sequence) < (epoch, sequence):
            await self.take(topic_id)


def _without_ids(state: TopicState) -> TopicState:
    if isinstance(state, ConversationState):
        return replace(state, window=state.window.emptied(state.position))
    return state
