"""The rows of the history: messages and events, as plain values.

Invariants: texts are kept as they were received; code that shows them must escape them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from grapevine_proto.events import Message, Via
from grapevine_proto.ids import MessageId, PeerId

MICROSECONDS: Final = 1_000_000
MAX_TEXT_CHARACTERS: Final = 512  # of a reason or a sentence
LEVEL_SIGNS: Final = {"info": " ", "warning": "!", "error": "X"}
LEVELS: Final = tuple(LEVEL_SIGNS)


class StoredMessage(NamedTuple):
    """A message of the history. `key` is the time at which it arrived in microseconds, made unique."""

    key: int
    message: Message
    origin_name: str
    zone: str
    size_bytes: int
    """Size of the whole payload; `message` may have only its beginning."""

    @property
    def at_unix(self) -> float:
        return self.key / MICROSECONDS

    def to_dict(self) -> dict[str, Any]:
        """The fields of the JSON event ``message``, and when it arrived."""
        message = self.message
        fields: dict[str, Any] = {"at": self.at_unix, "key": self.key, **message.to_dict()}
        fields["bytes"] = self.size_bytes
        if self.size_bytes > len(message.payload):
            fields["truncated"] = True
        if self.origin_name:
            fields["from_name"] = self.origin_name
        if self.zone:
            fields["zone"] = self.zone
        return fields


class StoredEvent(NamedTuple):
    """Something that happened to the node, a peer or a member. `text` says it in one sentence."""

    key: int
    kind: str
    level: str
    text: str
    peer_id: PeerId | None = None
    name: str = ""
    address: str = ""
    state: str = ""
    reason: str = ""
    suppressed: int = 0
    """How many earlier events of this kind were not kept, because there were too many."""

    @property
    def at_unix(self) -> float:
        return self.key / MICROSECONDS

    def to_dict(self) -> dict[str, Any]:
        return {
            "at": self.at_unix,
            "key": self.key,
            "kind": self.kind,
            "level": self.level,
            "peer_id": self.peer_id and str(self.peer_id),
            "name": self.name,
            "address": self.address,
            "state": self.state,
            "reason": self.reason,
            "text": self.text,
            "suppressed": self.suppressed,
        }


class NewSample(NamedTuple):
    """The tables of the screens at one time: `body` is a JSON list of [kind, fields], as an attached app
    receives them. `is_full`: nothing before it is needed to show it."""

    key: int
    is_full: bool
    body: bytes


def event_text(row: Mapping[str, Any]) -> str:
    """The sentence of an event in JSON, and how many of its kind before it were not kept. Unescaped."""
    more = f" (and {row['suppressed']:,} of this kind before)" if row["suppressed"] else ""
    return f"{row['text']}{more}"


def to_key(at_unix: float) -> int:
    """The key of that time."""
    return int(at_unix * MICROSECONDS)


def message_of_row(row: tuple[Any, ...]) -> StoredMessage:
    """The message of a row of `search.MESSAGE_COLUMNS`. Raises ValueError if the row is damaged."""
    (
        key,
        origin,
        name,
        zone,
        epoch,
        sequence,
        is_direct,
        recipient,
        topic,
        via,
        hops,
        age_ms,
        size,
        payload,
    ) = row
    message = Message(
        MessageId(PeerId(origin), epoch, sequence, is_direct=bool(is_direct)),
        payload or b"",  # SQLite returns NULL for the beginning of an empty one
        hops,
        Via(via),
        0.0,
        is_direct=bool(is_direct),
        to=None if recipient is None else PeerId(recipient),
        topic=topic,
        age_s=age_ms / 1000,
    )
    return StoredMessage(key, message, name, zone, size)


def event_of_row(row: tuple[Any, ...]) -> StoredEvent:
    """The event of a row of `search.EVENT_COLUMNS`. Raises ValueError if the row is damaged."""
    key, kind, level, text, peer_id, name, address, state, reason, suppressed = row
    peer = None if peer_id is None else PeerId(peer_id)
    return StoredEvent(key, kind, level, text, peer, name, address, state, reason, suppressed)
