"""A table whose rows are nodes: what can be done to one from there.

What must stay true: it asks and does nothing itself; the app gives the orders.
"""

from __future__ import annotations

from typing import ClassVar

from textual.binding import BindingType
from textual.message import Message

from grapevine_proto.ids import PeerId
from grapevine_tui.keys import PEERS
from grapevine_tui.widgets.bindings import bindings
from grapevine_tui.widgets.grid import Grid


class PeerGrid(Grid):
    """Rows whose key is a PeerId. Posts `Asked` with what is wanted of the one under the cursor."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(PEERS)

    class Asked(Message):
        """`what`: send, dial, copy or copy_id."""

        def __init__(self, what: str, peer_id: PeerId) -> None:
            super().__init__()
            self.what = what
            self.peer_id = peer_id

    def action_ask(self, what: str) -> None:
        key = self.cursor_key
        if isinstance(key, PeerId):
            self.post_message(self.Asked(what, key))
