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

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import msgpack

from grapevine_proto.wire.bounded_msgpack import unpack

MAX_RUMOR_ATTRIBUTES_BYTES: Final = 512
MAX_RECORD_ATTRIBUTES_BYTES: Final = 128
MAX_NUMBER: Final = 255
FIRST_CRITICAL: Final = 128
ATTRIBUTES_HEADER_BYTES: Final = 3  # of the field that holds them in a message
PARSED_CACHE_SIZE: Final = 256  # at most 512 bytes each

TRACE_SHARE: Final = 1
TRACE_ALL: Final = (1 << 16) - 1  # the share that asks every member


@dataclass(frozen=True, slots=True)
class RumorAttributes:
    """The attributes of a rumor that this version knows.

    `trace_share` is the share of members, out of `TRACE_ALL`, that confirm the rumor; 0: none.
    `unsupported` is the number of the first attribute that keeps the rumor from being delivered here: an
    unknown critical one, or a known one whose value makes no sense; 0: there is none.
    """

    trace_share: int = 0
    unsupported: int = 0


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


def rumor_attributes(*, trace_share: int = 0) -> bytes:
    """Returns the encoded attributes of a rumor."""
    return encode_attributes({TRACE_SHARE: trace_share} if trace_share else {})


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


@lru_cache(PARSED_CACHE_SIZE)
def parse_rumor_attributes(data: bytes) -> RumorAttributes:
    """Interprets the attributes of a rumor, which `decode_attributes` accepts. Never raises for those.
    Cached: a topic or a trace share repeats in many rumors."""
    if not data:
        return PLAIN
    values = decode_attributes(data)
    share = values.pop(TRACE_SHARE, 0)
    unsupported = next((number for number in values if number >= FIRST_CRITICAL), 0)
    if type(share) is not int or not 0 <= share <= TRACE_ALL:
        return RumorAttributes(unsupported=TRACE_SHARE)
    return RumorAttributes(share, unsupported)
