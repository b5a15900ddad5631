"""What members sign, and whoever holds a copy can check: records, accusations, rumors, receipts.

What must stay true:

- Everything in one of these but its signature is signed, under a domain of its own and the cluster's name, so
  that a copy is as good as hearing it from its subject, and none can be taken for one of another kind.
- An `Accusation` proves who makes it, and counts against one run and incarnation of one member: whatever
  its subject signs later makes it void.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from grapevine_proto.identity import DigestPart, Identity, verify
from grapevine_proto.ids import Address, MessageId, PeerId, Stream, StreamRange, Zone

RECORD_DOMAIN: Final = b"grapevine record 1"
RUMOR_DOMAIN: Final = b"grapevine rumor 1"
ACCUSATION_DOMAIN: Final = b"grapevine accusation 1"
TRACED_DOMAIN: Final = b"grapevine traced rumor 1"
RECEIPT_DOMAIN: Final = b"grapevine receipt 1"

TRACE_ALL: Final = (1 << 16) - 1  # the share of members that means every one
RUMOR_COPY_OVERHEAD_BYTES: Final = 150  # of a rumor's copy beside its payloads, rounded up
MIN_COUNTED_PAYLOAD_BYTES: Final = 16  # what a payload counts at least, wherever room is counted
# In one message, which one token pays for: each is a message to the application and a place in tables,
# so that none may come for next to nothing. 64 KiB of them have 128 bytes each.
MAX_PAYLOADS_PER_MESSAGE: Final = 512


def counted_payload_bytes(length: int) -> int:
    """What a payload of `length` bytes counts in a rumor: itself, and its length as msgpack writes it, but
    at least `MIN_COUNTED_PAYLOAD_BYTES`."""
    if length < MIN_COUNTED_PAYLOAD_BYTES - 1:
        return MIN_COUNTED_PAYLOAD_BYTES
    if length < 1 << 7:
        return length + 1
    if length < 1 << 8:
        return length + 2
    return length + (3 if length < 1 << 16 else 5)


@dataclass(frozen=True, slots=True)
class PeerRecord:
    """What a node says of itself, signed. Ordered by (epoch, incarnation); only its subject can
    raise either. `rate_capacity` and `rate_refill` are what it allows each peer, in envelopes."""

    peer_id: PeerId
    epoch: int
    incarnation: int
    addresses: tuple[Address, ...]
    zone: Zone
    name: str
    rate_capacity: int
    rate_refill: int
    left: bool
    signature: bytes = b""

    @property
    def version(self) -> tuple[int, int]:
        return self.epoch, self.incarnation

    @property
    def size_bytes(self) -> int:
        """How many bytes it takes in a message, at most: for filling a datagram without the codec."""
        text = len(self.zone.encode()) + len(self.name.encode())
        return 134 + text + sum(6 + len(address.host) for address in self.addresses)

    def signed(self, identity: Identity, cluster: str) -> PeerRecord:
        """This record with `identity`'s signature; `identity` must be its subject."""
        signature = identity.sign(RECORD_DOMAIN, *self._signed_parts(cluster))
        return replace(self, signature=signature)

    def is_authentic(self, cluster: str) -> bool:
        """Whether its subject signed it for this cluster. One signature check."""
        return verify(self.peer_id, self.signature, RECORD_DOMAIN, *self._signed_parts(cluster))

    def _signed_parts(self, cluster: str) -> tuple[DigestPart, ...]:
        addresses = ",".join(str(address) for address in self.addresses)
        return (
            cluster,
            self.peer_id,
            self.epoch,
            self.incarnation,
            addresses,
            self.zone,
            self.name,
            self.rate_capacity,
            self.rate_refill,
            self.left,
        )


@dataclass(frozen=True, slots=True)
class Accusation:
    """`accuser` had no answer from a member, of its own or through others, and signs that it says so."""

    accuser: PeerId
    signature: bytes

    @classmethod
    def signed(cls, identity: Identity, cluster: str, accused: PeerRecord) -> Accusation:
        """`identity`'s accusation of the run and incarnation that `accused` tells of."""
        accuser = identity.peer_id
        return cls(
            accuser, identity.sign(ACCUSATION_DOMAIN, *_accusation_parts(cluster, accuser, accused))
        )

    def is_authentic(self, cluster: str, accused: PeerRecord) -> bool:
        """Whether its accuser says this of exactly this run and incarnation. One signature check."""
        parts = _accusation_parts(cluster, self.accuser, accused)
        return verify(self.accuser, self.signature, ACCUSATION_DOMAIN, *parts)


def _accusation_parts(cluster: str, accuser: PeerId, accused: PeerRecord) -> tuple[DigestPart, ...]:
    return (cluster, accuser, accused.peer_id, accused.epoch, accused.incarnation)


@dataclass(frozen=True, slots=True)
class Rumor:
    """What an origin signs and what relays, stores and repairs move whole: one or more payloads
    with consecutive sequences from `first`, joined in `body` and cut by `lengths`.

    `trace_share`: how many of its receivers are asked to tell the origin that they have it, of
    `TRACE_ALL` (see `overlay.sample`); 0: nobody."""

    origin: PeerId
    epoch: int
    first: int
    lengths: tuple[int, ...]
    body: bytes
    signature: bytes = b""
    trace_share: int = 0

    @classmethod
    def signed(
        cls,
        identity: Identity,
        cluster: str,
        epoch: int,
        first: int,
        payloads: tuple[bytes, ...],
        *,
        trace_share: int = 0,
    ) -> Rumor:
        """A rumor of `identity`'s own, signed for `cluster`."""
        lengths = tuple(len(payload) for payload in payloads)
        body = b"".join(payloads)
        unsigned = cls(identity.peer_id, epoch, first, lengths, body, trace_share=trace_share)
        signature = identity.sign(unsigned._domain, *unsigned._signed_parts(cluster))
        return cls(unsigned.origin, epoch, first, lengths, body, signature, trace_share)

    def is_authentic(self, cluster: str) -> bool:
        """Whether its origin signed it for this cluster. One hash and one signature check."""
        return verify(self.origin, self.signature, self._domain, *self._signed_parts(cluster))

    @property
    def _domain(self) -> bytes:
        return TRACED_DOMAIN if self.trace_share else RUMOR_DOMAIN

    def _signed_parts(self, cluster: str) -> tuple[DigestPart, ...]:
        encoded_lengths = b"".join(length.to_bytes(4, "big") for length in self.lengths)
        parts = (cluster, self.origin, self.epoch, self.first, encoded_lengths, self.body)
        return (*parts, self.trace_share) if self.trace_share else parts

    @property
    def stream(self) -> Stream:
        return Stream(self.origin, self.epoch)

    @property
    def last(self) -> int:
        """The sequence of its last payload."""
        return self.first + len(self.lengths) - 1

    @property
    def ids(self) -> StreamRange:
        """What names it to others: the sequences of its payloads."""
        return StreamRange(self.stream, self.first, self.last)

    @property
    def size_bytes(self) -> int:
        """How many bytes a copy takes in a message, at most: for filling one without the codec."""
        return RUMOR_COPY_OVERHEAD_BYTES + sum(map(counted_payload_bytes, self.lengths))

    def payloads(self) -> list[tuple[MessageId, bytes]]:
        """Each payload with its message id, in order."""
        start, pairs = 0, []
        for offset, length in enumerate(self.lengths):
            message_id = MessageId(self.origin, self.epoch, self.first + offset)
            pairs.append((message_id, self.body[start : start + length]))
            start += length
        return pairs


@dataclass(frozen=True, slots=True)
class TraceReceipt:
    """`member` has a traced message, after so many hops and so long after it was sent. Signed by
    the member where others pass it on; `relays` is how many did, and nobody's word."""

    member: PeerId
    hops: int
    delay_ms: int
    relays: int = 0
    signature: bytes = b""

    def signed(self, identity: Identity, cluster: str, message_id: MessageId) -> TraceReceipt:
        """This receipt for `message_id` with `identity`'s signature; `identity` must be its member."""
        signature = identity.sign(RECEIPT_DOMAIN, *self._signed_parts(cluster, message_id))
        return replace(self, signature=signature)

    def is_authentic(self, cluster: str, message_id: MessageId) -> bool:
        """Whether its member signed it for this message. One signature check."""
        parts = self._signed_parts(cluster, message_id)
        return verify(self.member, self.signature, RECEIPT_DOMAIN, *parts)

    def _signed_parts(self, cluster: str, message_id: MessageId) -> tuple[DigestPart, ...]:
        origin, epoch, sequence, _ = message_id
        return (cluster, origin, epoch, sequence, self.member, self.hops, self.delay_ms)
