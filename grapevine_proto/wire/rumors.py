"""Encoding of Rumors and Repair messages that share encoded rumors between peers.

Invariants:

- The result equals that of `encode_message`, byte for byte.
- A large body is in memory once, however many peers it is sent to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgpack

from grapevine_proto.crypto.identity import SIGNATURE_BYTES
from grapevine_proto.ids import (
    EPOCH_LIMIT,
    PEER_ID_BYTES,
    SEQUENCE_LIMIT,
    PeerId,
)
from grapevine_proto.wire.attributes import ATTRIBUTES_HEADER_BYTES
from grapevine_proto.wire.fields import (
    MAX_AGE_MS,
    MAX_COUNT,
    MAX_HOPS,
    MAX_PAYLOADS,
    rumor_copy_fields,
)
from grapevine_proto.wire.message_codec import encode_message
from grapevine_proto.wire.messages import Kind, Repair, RumorCopy
from grapevine_proto.wire.packets import BASE_DATAGRAM_BYTES
from grapevine_proto.wire.signed import Rumor, counted_payload_bytes
from grapevine_proto.wire.tracked_bytes import TrackedBytes, TrackedKey

_RUMORS_HEADER: Final = bytes((Kind.RUMORS, 0x91))  # an array with one field, the array of copies
RUMORS_OVERHEAD_BYTES: Final = len(_RUMORS_HEADER) + 3


_BODY_INDEX: Final = 4  # in `rumor_copy_fields`


def encode_rumor_copy(copy: RumorCopy, *, is_tracked: bool = False) -> bytes:
    """Returns `copy` encoded for a Rumors message. `is_tracked`: report when a peer acknowledges it."""
    encoded: bytes = msgpack.packb(rumor_copy_fields(copy))
    return with_tracking(encoded, [(copy.rumor.epoch, copy.rumor.first)] if is_tracked else ())


class ChunkedMessage:
    """An encoded message with one large body, in three parts that are never joined, so all peers share the
    body.

    `head`, body and `tail` together are what `encode_message` returns. `tracked_keys` is as in
    `TrackedBytes`.
    """

    __slots__ = ("_body", "head", "tail", "tracked_keys")

    def __init__(self, head: bytes, body: bytes, tail: bytes) -> None:
        self.head = head
        self.tail = tail
        self.tracked_keys: tuple[TrackedKey, ...] = ()
        self._body = memoryview(body)

    @property
    def kind(self) -> int:
        """The kind of the message."""
        return self.head[0]

    def __len__(self) -> int:
        return len(self.head) + len(self._body) + len(self.tail)

    def slice_bytes(self, start: int, end: int) -> bytes:
        """Returns the bytes of the message from `start` up to but not including `end`."""
        body_at = len(self.head)
        tail_at = body_at + len(self._body)
        if body_at <= start and end <= tail_at:  # the common case
            return bytes(self._body[start - body_at : end - body_at])
        return b"".join(
            (
                self.head[start:end],
                self._body[max(start - body_at, 0) : max(end - body_at, 0)],
                self.tail[max(start - tail_at, 0) : max(end - tail_at, 0)],
            )
        )


def with_tracking(message: bytes, keys: Sequence[TrackedKey]) -> bytes:
    """Returns `message` as `TrackedBytes` with `keys`, or unchanged if there are none."""
    if not keys:
        return message
    tracked = TrackedBytes(message)
    tracked.tracked_keys = tuple(keys)
    return tracked


CHUNKED_BODY_BYTES: Final = 1 << 16  # from here on msgpack encodes the length in four bytes


def encode_repair(repair: Repair, local_id: PeerId | None = None) -> bytes | ChunkedMessage:
    """Returns the encoded Repair, chunked if it holds one large rumor. Rumors of `local_id` are tracked."""
    rumors = [copy.rumor for copy in repair.copies]
    keys = [(rumor.epoch, rumor.first) for rumor in rumors if rumor.origin == local_id]
    if len(repair.copies) == 1:
        (copy,) = repair.copies
        if len(copy.rumor.body) >= CHUNKED_BODY_BYTES:
            chunked = _encode_chunked(repair, copy)
            chunked.tracked_keys = tuple(keys)
            return chunked
    return with_tracking(encode_message(repair), keys)


def _encode_chunked(repair: Repair, copy: RumorCopy) -> ChunkedMessage:
    """Returns the encoded Repair whose only copy is `copy`, with a large body."""
    fields, body = rumor_copy_fields(copy), copy.rumor.body
    fields_before, fields_after = fields[:_BODY_INDEX], fields[_BODY_INDEX + 1 :]
    head = (
        bytes((Kind.REPAIR, 0x94)),  # an array of four fields
        *map(msgpack.packb, (repair.round, repair.is_last, repair.has_more)),
        bytes((0x91, 0x90 | len(fields))),  # the last one: an array of one copy
        *map(msgpack.packb, fields_before),
        b"\xc6" + len(body).to_bytes(4, "big"),
    )
    return ChunkedMessage(b"".join(head), body, b"".join(map(msgpack.packb, fields_after)))


def encode_rumors(copies: Sequence[bytes]) -> bytes:
    """Returns the encoded Rumors message with these encoded copies, as `TrackedBytes` if any of them is."""
    count = len(copies)
    header = bytes((0x90 | count,)) if count < 16 else b"\xdc" + count.to_bytes(2, "big")
    message = _RUMORS_HEADER + header + b"".join(copies)
    keys = [key for copy in copies if isinstance(copy, TrackedBytes) for key in copy.tracked_keys]
    return with_tracking(message, keys)


_LARGEST_RUMOR = Rumor(
    PeerId(bytes(PEER_ID_BYTES)),
    EPOCH_LIMIT - 1,
    SEQUENCE_LIMIT - MAX_PAYLOADS,
    (BASE_DATAGRAM_BYTES,),
    bytes(BASE_DATAGRAM_BYTES),
    bytes(SIGNATURE_BYTES),
)
_RUMOR_OVERHEAD_BYTES: Final = len(
    encode_message(
        Repair(MAX_COUNT, True, True, (RumorCopy(_LARGEST_RUMOR, MAX_HOPS, MAX_AGE_MS),))
    )
) - counted_payload_bytes(BASE_DATAGRAM_BYTES)


def max_payload_bytes(message_bytes: int) -> int:
    """Returns how many bytes the payloads of one rumor, by `counted_payload_bytes`, and its attributes may
    have together so that it fits a message of `message_bytes` both when pushed and when repaired."""
    overhead = _RUMOR_OVERHEAD_BYTES + ATTRIBUTES_HEADER_BYTES
    return message_bytes - overhead - 2  # more than 15 lengths need two bytes more
