"""Memberships that come and go across runs of the process: none is left out, no event is handed over twice.

The machine of `test_sync_engine_machine.py` with nothing that excuses a loss (Sync tells all, no log is lost) and with
more joins, leavings, restarts and whole requests than all its rules leave room for.
"""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.unit.client.test_sync_engine_machine import Frames, topics


class Memberships(Frames):
    """Most steps move a membership or the process."""

    sync_events = 1_000

    def recreate(self, topic_id: str) -> None:
        """No rule here: no log is lost."""
        raise NotImplementedError

    def unknown_control(self) -> None:
        """No rule here: it changes nothing."""
        raise NotImplementedError

    @rule(topic_id=topics)
    def move(self, topic_id: str) -> None:
        self.join_or_leave(topic_id)

    @rule(topic_id=topics)
    def move_twice(self, topic_id: str) -> None:
        self.join_or_leave(topic_id)
        self.join_or_leave(topic_id)

    @rule(is_killed=st.booleans())
    def restart_again(self, is_killed: bool) -> None:
        self.restart(is_killed)

    @precondition(lambda self: not self.server.is_open)
    @rule()
    def open_again(self) -> None:
        self.open_stream_well()

    @rule(topic_id=topics)
    def serve_all_but(self, topic_id: str) -> None:
        self._ask_and_serve(frozenset({topic_id}))

    @rule()
    def serve_all(self) -> None:
        self._ask_and_serve(frozenset())

    def _ask_and_serve(self, busy: frozenset[str]) -> None:
        self.ask()
        if self.asked and self.answer is None:
            self.serve(busy)

    @precondition(lambda self: self.answer)
    @rule()
    def hear_all(self) -> None:
        self.hear_answer(1_000)


Memberships.TestCase.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
TestMemberships = Memberships.TestCase
