"""Signed attributes: numbered values that let rumors and records grow without a new protocol version.

Attributes are encoded as one flat msgpack array `number, value, number, value, ...` with strictly
ascending numbers, so a set of them has one order. Their signed owner covers the encoded bytes, and relays
keep those as received. An absent field means no attributes; the array is never empty.

Invariants:

- A node relays and caches what it does not understand. Only the values of this node's own version
  are interpreted, and a value that makes no sense never counts as the fault of a relay.
- Numbers below `FIRST_CRITICAL` may be ignored. A rumor with an unknown number from there on is relayed,
  cached and marked as seen, but not delivered, because its payload would be misread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgpack

from grapevine_proto.coordinate import Coordinate
from grapevine_proto.ids import EPOCH_LIMIT
from grapevine_proto.topics import topic_fault
from grapevine_proto.wire.bounded_msgpack import unpack
from grapevine_proto.wire.entry_terms import EntryTerms
from grapevine_proto.wire.query_terms import QueryTerms

MAX_RUMOR_ATTRIBUTES_BYTES: Final = 512
MAX_RECORD_ATTRIBUTES_BYTES: Final = 128
MAX_NUMBER: Final = 255
FIRST_CRITICAL: Final = 128
ATTRIBUTES_HEADER_BYTES: Final = 3  # of the field that holds them in a message
PARSED_CACHE_SIZE: Final = 256  # at most 512 bytes each

TRACE_SHARE: Final = 1
TOPIC: Final = 2
EXPIRY: Final = 5
INTRODUCERS: Final = 4  # of a record
INTRODUCER_PREFIX_BYTES: Final = 8  # of a member's ID
MAX_INTRODUCERS: Final = 3
QUERY: Final = 131
ENTRY: Final = 132
RECORD_COORDINATE: Final = 3  # of a record
EARLIER_EPOCH: Final = 7  # of a record
MAX_ACK_DELAY: Final = 6  # of a record
MAX_ACK_DELAY_LIMIT_MS: Final = 1000
MAX_EXPIRY_S: Final = (1 << 32) - 1
TRACE_ALL: Final = (1 << 16) - 1  # the share that asks every member


class RumorAttributes(NamedTuple):
    """The attributes of a rumor that this version knows.

    `trace_share` is the share of members, out of `TRACE_ALL`, that confirm the rumor; 0: none. `topic` is
    the topic of its messages; empty: none. `expires_s` is the age in seconds from which on they are not
    delivered; 0: never. `query`: the rumor is a question to be answered, not messages to be delivered.
    `entry`: its payload is the value of a state entry; a message only if it has a topic as well.
    `unsupported` is the number of the first attribute that keeps the rumor from being delivered here: an
    unknown critical one, or a known one whose value makes no sense; 0: there is none.
    """

    trace_share: int = 0
    topic: str = ""
    expires_s: int = 0
    unsupported: int = 0
    query: QueryTerms | None = None
    entry: EntryTerms | None = None

    def is_expired(self, age_ms: int) -> bool:
        """Whether a rumor of that age is not delivered any more."""
        return 0 < self.expires_s * 1000 <= age_ms


PLAIN: Final = RumorAttributes()


def encode_attributes(values: Mapping[int, Any]) -> bytes:
    """Returns the encoded attributes; b"" if there are none.

    Values are integers, floats, booleans, None, bytes and tuples of those. Numbers are 1 to 255.
    """
    if not values:
        return b""
    flat = [part for number in sorted(values) for part in (number, values[number])]
    encoded: bytes = msgpack.packb(flat)
    return encoded


def rumor_attributes(
    *,
    trace_share: int = 0,
    topic: str = "",
    expires_s: int = 0,
    query: QueryTerms | None = None,
    entry: EntryTerms | None = None,
) -> bytes:
    """Returns the encoded attributes of a rumor. The arguments are as in `RumorAttributes`."""
    values: dict[int, Any] = {}
    if trace_share:
        values[TRACE_SHARE] = trace_share
    if topic:
        values[TOPIC] = topic.encode("ascii")
    if expires_s:
        values[EXPIRY] = expires_s
    if query is not None:
        values[QUERY] = query.to_value()
    if entry is not None:
        values[ENTRY] = entry.to_value()
    return encode_attributes(values)


def decode_attributes(data: bytes) -> dict[int, Any]:
    """Returns the value of each attribute in `data`, which is not empty. Raises one of
    `UNPACK_ERRORS`."""
    flat = unpack(data)
    if not flat or len(flat) % 2:
        raise ValueError("attributes are not pairs")
    previous = 0
    for number in flat[::2]:
        if type(number) is not int or not previous < number <= MAX_NUMBER:
            raise ValueError("attribute numbers are not ascending")
        previous = number
    return dict(zip(flat[::2], flat[1::2], strict=True))


def record_attributes(
    *,
    coordinate: Coordinate | None = None,
    introducers: tuple[bytes, ...] | None = None,
    earlier_epoch: int = 0,
    max_ack_delay_s: float = 0.0,
) -> bytes:
    """Returns the encoded attributes of a record. The arguments are as in `RecordAttributes`."""
    values: dict[int, Any] = {}
    if coordinate is not None:
        values[RECORD_COORDINATE] = coordinate.encode()
    if introducers is not None:
        values[INTRODUCERS] = b"".join(introducers)
    if earlier_epoch:
        values[EARLIER_EPOCH] = earlier_epoch
    if max_ack_delay_ms := int(max_ack_delay_s * 1000):
        values[MAX_ACK_DELAY] = max_ack_delay_ms
    return encode_attributes(values)


def record_coordinate(data: bytes) -> Coordinate | None:
    """Returns the coordinate in the attributes of a record, which `decode_attributes` accepts; None if there
    is none or it makes no sense."""
    value = decode_attributes(data).get(RECORD_COORDINATE) if data else None
    try:
        return Coordinate.parse(value) if type(value) is bytes else None
    except ValueError:
        return None


@lru_cache(PARSED_CACHE_SIZE)
def parse_rumor_attributes(data: bytes) -> RumorAttributes:
    """Interprets the attributes of a rumor, which `decode_attributes` accepts. Never raises for those.
    Cached: a topic or a trace share repeats in many rumors."""
    if not data:
        return PLAIN
    values = decode_attributes(data)
    known = RumorAttributes()
    for number, value in values.items():
        parse = _RUMOR_PARSERS.get(number)
        if parse is not None:
            parsed = parse(value)
            if parsed is None:
                return RumorAttributes(unsupported=number)
            known = known._replace(**parsed)
        elif number >= FIRST_CRITICAL:
            return RumorAttributes(unsupported=number)
    return known


def _parse_trace_share(value: Any) -> dict[str, Any] | None:
    return {"trace_share": value} if type(value) is int and 1 <= value <= TRACE_ALL else None


def _parse_topic(value: Any) -> dict[str, Any] | None:
    if type(value) is not bytes or not value.isascii():
        return None
    topic = value.decode("ascii")
    return None if topic_fault(topic) else {"topic": topic}


def _parse_expiry(value: Any) -> dict[str, Any] | None:
    return {"expires_s": value} if type(value) is int and 1 <= value <= MAX_EXPIRY_S else None


def _parse_query(value: Any) -> dict[str, Any] | None:
    try:
        return {"query": QueryTerms.from_value(value)}
    except ValueError:
        return None


def _parse_entry(value: Any) -> dict[str, Any] | None:
    try:
        return {"entry": EntryTerms.from_value(value)}
    except ValueError:
        return None


_RUMOR_PARSERS: Final[Mapping[int, Callable[[Any], dict[str, Any] | None]]] = {
    TRACE_SHARE: _parse_trace_share,
    TOPIC: _parse_topic,
    EXPIRY: _parse_expiry,
    QUERY: _parse_query,
    ENTRY: _parse_entry,
}


class RecordAttributes(NamedTuple):
    """The attributes of a record that this version knows.

    `introducers`: the subject is behind a NAT, and the members whose IDs begin like this, at most
    `MAX_INTRODUCERS`, introduce it; None: it is reached at its addresses. `earlier_epoch` is the epoch of
    the run before this one, whose messages may still be on their way; 0: none of them is.
    `max_ack_delay_s` is how long peers may wait before they acknowledge rumors of the subject, in seconds.
    """

    introducers: tuple[bytes, ...] | None = None
    earlier_epoch: int = 0
    max_ack_delay_s: float = 0.0


NO_RECORD_ATTRIBUTES: Final = RecordAttributes()


@lru_cache(PARSED_CACHE_SIZE)
def parse_record_attributes(data: bytes) -> RecordAttributes:
    """Interprets the attributes of a record, which `decode_attributes` accepts. A value that makes no sense
    counts as absent."""
    if not data:
        return NO_RECORD_ATTRIBUTES
    values = decode_attributes(data)
    return RecordAttributes(
        _parse_introducers(values.get(INTRODUCERS)),
        _parse_epoch(values.get(EARLIER_EPOCH)),
        _parse_max_ack_delay(values.get(MAX_ACK_DELAY)),
    )


def _parse_introducers(prefixes: Any) -> tuple[bytes, ...] | None:
    size = INTRODUCER_PREFIX_BYTES
    if (
        type(prefixes) is not bytes
        or len(prefixes) % size
        or len(prefixes) > MAX_INTRODUCERS * size
    ):
        return None
    return tuple(prefixes[start : start + size] for start in range(0, len(prefixes), size))


def _parse_epoch(epoch: Any) -> int:
    return epoch if type(epoch) is int and 0 < epoch < EPOCH_LIMIT else 0


def _parse_max_ack_delay(delay_ms: Any) -> float:
    is_valid = type(delay_ms) is int and 0 < delay_ms <= MAX_ACK_DELAY_LIMIT_MS
    return delay_ms / 1000 if is_valid else 0.0
