"""The details of one peer or member, with its latest events and the keys of the peer table.

Invariants: it posts `PeerGrid.ActionRequested`, as the peer table does; only the app acts on the node.
Without a history there are no events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

from textual.binding import BindingType
from textual.message import Message

from grapevine_proto.ids import PeerId
from grapevine_tui.app.screens.detail import DetailScreen
from grapevine_tui.app.screens.facts import node_facts
from grapevine_tui.app.widgets.bindings import bindings
from grapevine_tui.app.widgets.fact_sheet import Fact
from grapevine_tui.app.widgets.peer_table import ALLOW_LABEL, DENY_ACTION, PeerAction, PeerGrid
from grapevine_tui.config.keymap import PEER_KEYS
from grapevine_tui.history.records import event_text
from grapevine_tui.history.times import format_time
from grapevine_tui.host.model import Model
from grapevine_tui.text import printable

MAX_EVENTS: Final = 10
EVENTS_INTERVAL_S: Final = 5.0  # between two looks at the history while the screen is open
EVENT_TONES: Final = {"warning": "warn", "error": "bad"}


def event_facts(rows: Sequence[Mapping[str, Any]]) -> list[Fact]:
    """A line for each event of ``events``, newest first."""
    if not rows:
        return []
    facts = [Fact("events", "")]
    for row in reversed(rows):
        tone = EVENT_TONES.get(row["level"], "text")
        facts.append(Fact(format_time(row["at"]), printable(event_text(row)), tone))
    return facts


class NodeScreen(DetailScreen):
    """The detail screen of one node, connected or not."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(PEER_KEYS)

    class EventsRequested(Message):
        """The latest events of the node on `screen` are wanted: for `show_events`."""

        def __init__(self, screen: NodeScreen) -> None:
            super().__init__()
            self.screen = screen

    def __init__(self, model: Model, peer_id: PeerId) -> None:
        super().__init__(printable(model.name_of(peer_id)), self._current_facts, kind="node")
        self._model = model
        self.peer_id = peer_id
        self._events: Sequence[Mapping[str, Any]] = ()

    def on_mount(self) -> None:
        self._request_events()
        self.set_interval(EVENTS_INTERVAL_S, self._request_events)

    def _request_events(self) -> None:
        self.post_message(self.EventsRequested(self))

    def show_events(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Show these rows of ``events``, oldest first."""
        self._events = rows
        self.show()

    def _current_facts(self) -> list[Fact] | None:
        facts = node_facts(self._model, self.peer_id)
        return None if facts is None else facts + event_facts(self._events)

    def key_label(self, action: str) -> str:
        """Return the label of the deny key: "allow" for a denied node."""
        return ALLOW_LABEL if action == DENY_ACTION and self.peer_id in self._model.denied else ""

    def action_request(self, action: str) -> None:
        self.post_message(PeerGrid.ActionRequested(PeerAction(action), self.peer_id))
