"""A table whose rows are nodes: what can be done to one from there.

What must stay true: it asks and does nothing itself; the app gives the orders.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Final

from textual.binding import BindingType
from textual.message import Message

from grapevine_proto.ids import PeerId
from grapevine_tui.app.widgets.bindings import bindings
from grapevine_tui.app.widgets.grid import Grid
from grapevine_tui.config.keymap import PEER_KEYS

DENY_ACTION: Final = "request('deny')"
ALLOW_LABEL: Final = "Allow it again"


class PeerGrid(Grid):
    """Rows whose key is a PeerId. Posts `RequestKey` with what is wanted of the one under the cursor."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(PEER_KEYS)

    is_denied: Callable[[PeerId], bool] | None = None
    """Whether a node is denied, for those who know."""

    class ActionRequested(Message):
        """`action`: send, dial, deny, forget, copy or copy_id."""

        def __init__(self, action: str, peer_id: PeerId) -> None:
            super().__init__()
            self.action = action
            self.peer_id = peer_id

    def key_label(self, action: str) -> str:
        """What a key does now."""
        key = self.cursor_key
        if (
            action == DENY_ACTION
            and self.is_denied
            and isinstance(key, PeerId)
            and self.is_denied(key)
        ):
            return ALLOW_LABEL
        return super().key_label(action)

    def action_request(self, action: str) -> None:
        key = self.cursor_key
        if isinstance(key, PeerId) and self.ensure_cursor_visible():
            self.post_message(self.ActionRequested(action, key))
