"""The details of one peer or member, with the keys of the peer table.

Invariants: it posts `PeerGrid.ActionRequested`, as the peer table does; only the app acts on the node.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from textual.binding import BindingType

from grapevine_proto.ids import PeerId
from grapevine_tui.app.screens.detail import DetailScreen
from grapevine_tui.app.screens.facts import node_facts
from grapevine_tui.app.widgets.bindings import bindings
from grapevine_tui.app.widgets.peer_table import ALLOW_LABEL, DENY_ACTION, PeerAction, PeerGrid
from grapevine_tui.config.keymap import PEER_KEYS
from grapevine_tui.host.model import Model
from grapevine_tui.text import printable


class NodeScreen(DetailScreen):
    """The detail screen of one node, connected or not."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(PEER_KEYS)

    def __init__(self, model: Model, peer_id: PeerId) -> None:
        super().__init__(
            printable(model.name_of(peer_id)), partial(node_facts, model, peer_id), kind="node"
        )
        self._model = model
        self._peer_id = peer_id

    def key_label(self, action: str) -> str:
        """Return the label of the deny key: "allow" for a denied node."""
        return ALLOW_LABEL if action == DENY_ACTION and self._peer_id in self._model.denied else ""

    def action_request(self, action: str) -> None:
        self.post_message(PeerGrid.ActionRequested(PeerAction(action), self._peer_id))
