"""The selected row as the fields of its JSON, for commands of ``[app.commands]``.

Invariants: the fields are those of ``ctl`` and JSON Lines, and nothing is escaped: no screen shows them.
"""

from __future__ import annotations

from typing import Any

from grapevine_proto.events import Message
from grapevine_proto.ids import Address, PeerId
from grapevine_tui.control.jsonlines import named_message
from grapevine_tui.host.model import Model

Object = dict[str, Any]


def node_row(model: Model, peer_id: PeerId) -> Object:
    """What is known of a peer or member. ``host`` and ``port`` are parts of its address."""
    member, peer = model.members.get(peer_id), model.peers.get(peer_id)
    row: Object = {"row": "node", "peer_id": str(peer_id)}
    row |= {} if member is None else member.to_dict()
    row |= {} if peer is None else peer.to_dict(now=model.now)
    address = None if member is None else member.address
    address = address if peer is None else peer.address
    if isinstance(address, Address):
        row |= {"host": address.host, "port": address.port}
    return row | {"tags": dict(model.tags_of(peer_id))}


def message_row(model: Model, message: Message) -> Object:
    """A message, with the names of its author and recipient."""

    def name_of(peer_id: PeerId) -> str:
        known = model.peers.get(peer_id) or model.members.get(peer_id)
        return known.name if known is not None else ""

    return {"row": "message", **named_message(message, name_of)}
