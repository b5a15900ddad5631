"""Rows of the tables over all contexts, as JSON objects.

Invariants: each object names its context and cluster, and has `as_of`, null unless it is of the past. Its
other fields are those of ``ctl``, with nothing escaped.
"""

from __future__ import annotations

from collections.abc import Iterator

from grapevine_tui.control.jsonlines import Object, named_message
from grapevine_tui.remote.fleet import Fleet, FleetNode


def rows_of(fleet: Fleet, table: str) -> list[Object]:
    """The rows of a table, one of `FLEET_TABLES`: contexts worst first, messages oldest first, others context
    by context."""
    match table:
        case "members":
            return [each for node in fleet.nodes.values() for each in _members(node)]
        case "messages":
            rows = [each for node in fleet.nodes.values() for each in _messages(node)]
            return sorted(rows, key=lambda each: float(each["at"]))
        case "alerts":
            return [each for node in fleet.nodes.values() for each in _alerts(node)]
        case _:
            return [each.to_dict() for each in fleet.rows()]


def _origin(node: FleetNode) -> Object:
    """The fields that every row begins with."""
    as_of = round(node.as_of, 3) or None
    return {"context": node.context.name, "cluster": node.cluster, "as_of": as_of}


def _members(node: FleetNode) -> Iterator[Object]:
    for member in sorted(node.model.members.values(), key=lambda each: (each.name, each.peer_id)):
        yield _origin(node) | member.to_dict()


def _messages(node: FleetNode) -> Iterator[Object]:
    model = node.model
    names = {peer_id: each.name for peer_id, each in model.members.items()}
    if model.local_node is not None:
        names[model.local_node.peer_id] = model.own_name
    for entry in reversed(list(model.messages.newest_first())):
        fields = named_message(entry.message, lambda peer_id: names.get(peer_id, ""))
        yield _origin(node) | {"at": round(entry.at_unix, 3)} | fields


def _alerts(node: FleetNode) -> Iterator[Object]:
    for alert in node.model.alerts:
        peer = alert.peer_id
        fields = alert.to_dict() | {"peer_name": peer and node.model.name_of(peer)}
        yield _origin(node) | fields | {"muted": alert.is_muted or node.is_muted}
