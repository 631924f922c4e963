"""Writes what a topic's log has come to beside the log, so that a decision needs neither old records nor the store."""

from dataclasses import replace
from typing import Final

from hubbub_server.app.topic_fold import LoadedTopic
from hubbub_server.app.topic_loader import TopicLoader
from hubbub_server.domain.conversation import ConversationState
from hubbub_server.domain.id_window import IdWindow
from hubbub_server.domain.ids import TopicId
from hubbub_server.obs import metrics
from hubbub_server.ports.topic_states import RecentIds, Snapshot, TopicStates

RECENT_IDS: Final = 256


class UnknownEvents(Exception):
    """The topic has events of a newer version: whoever knows them takes its snapshot."""


class TakeSnapshots:
    """Takes snapshots. Anyone may, at any time: a late one never overwrites a newer one."""

    def __init__(self, *, loader: TopicLoader, states: TopicStates) -> None:
        """Takes the ports."""
        self._loader = loader
        self._states = states

    async def take(self, topic_id: TopicId) -> LoadedTopic:
        """Writes the topic's state at its head, and returns it.

        Raises:
            LogUnavailable, StoreUnavailable: the state cannot be had or written now.
            TopicDamaged: it cannot be had.
            UnknownEvents, SnapshotTooLarge: there is none that can be kept.
            RecordUndecodable, ValueError: a record is poison.
        """
        loaded = await self._loader.load(topic_id)
        if loaded.sequence > 0:  # without a record in the log it was trimmed, so its snapshot is there, or never made
            await self.write(topic_id, loaded)
        return loaded

    async def write(self, topic_id: TopicId, loaded: LoadedTopic) -> None:
        """Writes a state that was loaded, or moved along the log since. Raises as `take`, but TopicDamaged."""
        if loaded.state.has_unknown_event:
            raise UnknownEvents(topic_id)
        await self._states.write(_snapshot(topic_id, loaded))
        metrics.snapshots.inc()

    async def cover(self, topic_id: TopicId, *, epoch: int, sequence: int) -> None:
        """Makes sure that the snapshot of a topic has everything up to a record of its log. Raises as `take`."""
        snapshot = await self._states.read(topic_id)
        if snapshot is None or (snapshot.state.epoch, snapshot.sequence) < (epoch, sequence):
            await self.take(topic_id)


def _snapshot(topic_id: TopicId, loaded: LoadedTopic) -> Snapshot:
    state = loaded.state
    if not isinstance(state, ConversationState):
        return Snapshot(topic_id=topic_id, state=state, sequence=loaded.sequence)
    window = state.window.trim(state.position, RECENT_IDS)
    begin = next(place for place in loaded.places if place.position >= window.evicted_position)
    return Snapshot(
        topic_id=topic_id,
        state=replace(state, window=IdWindow(window.floor_at(state.position), state.position)),
        sequence=loaded.sequence,
        recent_ids=RecentIds(
            position=begin.position, sequence=begin.sequence, floor_ms=window.floor_at(begin.position)
        ),
    )
