"""Tests of the rows of the past that a screen holds, by the same rules as the search that found them.

Invariants: a row that cannot be read matches nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from grapevine_proto.ids import PeerId
from grapevine_tui.history.records import StoredEvent, StoredMessage
from grapevine_tui.history.search import matches_event
from grapevine_tui.history.terms import MessageFields, Query, compile_terms
from grapevine_tui.remote.decode import DECODE_ERRORS, message_from_json

JsonRow = Mapping[str, Any]

_FIELDS: MessageFields[StoredMessage] = MessageFields(
    message=lambda row: row.message,
    author_name=lambda row: row.origin_name,
    recipient_name=lambda row: "",
    zone=lambda row: row.zone,
    size_bytes=lambda row: row.size_bytes,
)


def compile_past_filter(kind: str, query: Query) -> Callable[[JsonRow], bool]:
    """A test for rows of ``messages`` or ``events``. Times match everything."""
    if kind == "messages":
        matches = compile_terms(query, _FIELDS)
        return lambda row: (found := _message_of(row)) is not None and matches(found)
    return lambda row: (found := _event_of(row)) is not None and matches_event(found, query)


def _message_of(row: JsonRow) -> StoredMessage | None:
    try:
        message = message_from_json(dict(row), 0.0)
        name, zone = str(row.get("from_name", "")), str(row.get("zone", ""))
        return StoredMessage(row["key"], message, name, zone, int(row["bytes"]))
    except DECODE_ERRORS:
        return None


def _event_of(row: JsonRow) -> StoredEvent | None:
    try:
        fields = {name: row[name] for name in StoredEvent._fields}
        peer_id = row["peer_id"] and PeerId.parse(row["peer_id"])
        return StoredEvent(**fields | {"peer_id": peer_id or None})
    except DECODE_ERRORS:
        return None
