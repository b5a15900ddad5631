"""A table whose rows are nodes, and the actions on the selected one.

Invariants: the table only posts requests; the app executes them.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import ClassVar, Final

from textual.binding import BindingType
from textual.message import Message

from grapevine_proto.ids import PeerId
from grapevine_tui.app.widgets.bindings import bindings
from grapevine_tui.app.widgets.grid import Grid
from grapevine_tui.config.keymap import PEER_KEYS

DENY_ACTION: Final = "request('deny')"
ALLOW_LABEL: Final = "Allow"


class PeerAction(Enum):
    """What can be requested for the selected peer. The value is the name of the key."""

    SEND = "send"
    REDIAL = "redial"
    DENY = "deny"
    FORGET = "forget"
    COPY = "copy"
    COPY_ID = "copy_id"


class PeerGrid(Grid):
    """Rows whose key is a PeerId. Posts `ActionRequested` for the one under the cursor."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(PEER_KEYS)

    is_denied: Callable[[PeerId], bool] | None = None
    """Whether a node is denied; None: not known here."""

    class ActionRequested(Message):
        """`action` is requested for the peer `peer_id`."""

        def __init__(self, action: PeerAction, peer_id: PeerId) -> None:
            super().__init__()
            self.action = action
            self.peer_id = peer_id

    def key_label(self, action: str) -> str:
        """The label of a key, where its effect depends on the selected row."""
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
            self.post_message(self.ActionRequested(PeerAction(action), key))
