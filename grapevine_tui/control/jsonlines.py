"""JSON Lines: events and replies to lines (`requests` reads the lines that come in).

Invariants:

- Output is one ASCII object per line. Fields and values are only ever added: scripts depend on them.
- Every object encodes: numbers that JSON lacks become null, and no text is left out
  (`grapevine_proto.events` turns values into objects).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from grapevine_proto.events import (
    EntryChanged,
    Event,
    JsonObject,
    Message,
    MessageReceived,
    MessageSent,
    MessageUndelivered,
    event_to_json,
)
from grapevine_proto.ids import PeerId

Object = JsonObject

NO_MEMBER_CODE: Final = "no_member"  # of a failed reply: a query without a member that matches


def encode_event(event: str, fields: Mapping[str, Any]) -> bytes:
    """One line: ``{"event": ..., "time": ..., ...}``."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00")
    fields_with_envelope = {"event": event, "time": f"{now}Z", **fields}
    return (
        json.dumps(fields_with_envelope, allow_nan=False, separators=(",", ":")).encode("ascii")
        + b"\n"
    )


def named_event(event: Event, name_of: Callable[[PeerId], str]) -> tuple[str, Object]:
    """The word and the fields of `event`, with the names that people gave to nodes."""
    fields = event_to_json(event)
    word = fields.pop("event")
    if isinstance(event, (MessageReceived, MessageSent)):
        fields |= _name_fields(event.message, name_of)
    elif isinstance(event, MessageUndelivered) and (name := name_of(event.to)):
        fields["to_name"] = name
    elif isinstance(event, EntryChanged) and (name := name_of(event.owner)):
        fields["owner_name"] = name
    return word, fields


def named_message(message: Message, name_of: Callable[[PeerId], str]) -> Object:
    """The fields of `message`, with the names that people gave to nodes."""
    return message.to_dict() | _name_fields(message, name_of)


def _name_fields(message: Message, name_of: Callable[[PeerId], str]) -> Object:
    fields: Object = {}
    if name := name_of(message.origin):
        fields["from_name"] = name
    if message.to is not None and (name := name_of(message.to)):
        fields["to_name"] = name
    return fields
