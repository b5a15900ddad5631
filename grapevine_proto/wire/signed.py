"""Signed values of the protocol: records, accusations, rumors, receipts and answers.

Invariants:

- A signature covers every other field, the cluster name and a domain of its own. A copy is
  therefore as good as the original, and no value can pass for one of another kind.
- An `Accusation` identifies its accuser and counts against one epoch and incarnation of one member.
  A newer record of that member cancels it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final, NamedTuple, Self

from grapevine_proto.crypto.identity import DigestPart, Identity, digest, verify
from grapevine_proto.ids import Address, MessageId, PeerId, Stream, StreamRange, Zone
from grapevine_proto.wire.attributes import (
    ATTRIBUTES_HEADER_BYTES,
    PLAIN,
    RumorAttributes,
    parse_record_attributes,
    parse_rumor_attributes,
)
from grapevine_proto.wire.query_terms import MAX_LARGE_ANSWER_BYTES

RECORD_DOMAIN: Final = b"grapevine record 1"
RUMOR_DOMAIN: Final = b"grapevine rumor 1"
ACCUSATION_DOMAIN: Final = b"grapevine accusation 1"
BODY_HASH_BYTES: Final = 32
ATTRIBUTED_RECORD_DOMAIN: Final = b"grapevine record 2"
ATTRIBUTED_RUMOR_DOMAIN: Final = b"grapevine rumor 2"
BODY_DOMAIN: Final = b"grapevine rumor body 1"
RECEIPT_DOMAIN: Final = b"grapevine receipt 1"
ANSWER_DOMAIN: Final = b"grapevine answer 1"
ANSWER_BODY_DOMAIN: Final = b"grapevine answer body 1"

RUMOR_COPY_OVERHEAD_BYTES: Final = 150  # of a rumor copy besides its payloads, rounded up
MIN_COUNTED_PAYLOAD_BYTES: Final = 16  # minimum that a payload counts in every size limit
# In one message, which costs one token: each payload is a message to the application and an entry in
# tables, so none may be almost free. In 64 KiB they have 128 bytes each.
MAX_PAYLOADS_PER_MESSAGE: Final = 512
PUSH_LIMIT_BYTES: Final = 8 * 1024  # of a payload, seven datagrams: larger ones are pulled
RECEIPT_BYTES: Final = 110  # of an encoded receipt, rounded up
ANSWER_OVERHEAD_BYTES: Final = 120  # of an encoded answer besides its payload, rounded up
MAX_ANSWER_BYTES: Final = 1024  # the payload of an answer that travels the reverse path
MAX_ANSWERS_PER_MEMBER: Final = 4


def is_pulled(payload_bytes: int) -> bool:
    """Whether a payload of this size is announced and pulled instead of pushed."""
    return payload_bytes > PUSH_LIMIT_BYTES


def counted_payload_bytes(length: int) -> int:
    """Returns the size that a payload of `length` bytes counts as in a rumor: with its length in
    msgpack, at least `MIN_COUNTED_PAYLOAD_BYTES`."""
    if length < MIN_COUNTED_PAYLOAD_BYTES:
        return MIN_COUNTED_PAYLOAD_BYTES
    if length < 1 << 7:
        return length + 1
    if length < 1 << 8:
        return length + 2
    return length + (3 if length < 1 << 16 else 5)


def _field_bytes(attributes: bytes) -> int:
    """Upper bound of the encoded size of the field that holds `attributes`, which is omitted if empty."""
    return len(attributes) + ATTRIBUTES_HEADER_BYTES if attributes else 0


@dataclass(frozen=True, slots=True)
class PeerRecord:
    """The signed record of a node. Ordered by (epoch, incarnation), which only its subject can raise.

    `rate_capacity` and `rate_refill` advertise the rate limit for each peer, in messages. `attributes` are
    encoded (see `wire.attributes`); those that this version does not know are relayed and ignored.
    """

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
    attributes: bytes = b""

    @property
    def version(self) -> tuple[int, int]:
        """Epoch and incarnation; the greater version is the newer record."""
        return self.epoch, self.incarnation

    @property
    def size_bytes(self) -> int:
        """Upper bound of its encoded size, for filling a datagram without the codec."""
        text = len(self.zone.encode()) + len(self.name.encode())
        size = 134 + text + sum(6 + len(address.host) for address in self.addresses)
        return size + _field_bytes(self.attributes)

    @property
    def introducers(self) -> tuple[bytes, ...] | None:
        """The beginnings of the IDs of members that introduce the subject, which is behind a NAT; None: it is
        not."""
        return parse_record_attributes(self.attributes).introducers if self.attributes else None

    def is_behind_nat(self, our_addresses: Collection[Address]) -> bool:
        """Whether the subject is dialed only after an introduction: its record says so, or its only addresses
        are private ones that this node, at `our_addresses`, has itself. Then it is in another network."""
        if self.introducers is not None:
            return True
        return bool(self.addresses) and all(
            each in our_addresses and each.is_private for each in self.addresses
        )

    @property
    def earlier_epoch(self) -> int:
        """The epoch of the run before this one, whose messages may still be on their way; 0: none is."""
        return parse_record_attributes(self.attributes).earlier_epoch if self.attributes else 0

    @property
    def max_ack_delay_s(self) -> float:
        """How long peers may wait before they acknowledge rumors of the subject, in seconds."""
        return parse_record_attributes(self.attributes).max_ack_delay_s if self.attributes else 0.0

    def signed(self, identity: Identity, cluster: str) -> PeerRecord:
        """Returns the record signed by `identity`, which must be its subject."""
        signature = identity.sign(self._domain, *self._signed_parts(cluster))
        return replace(self, signature=signature)

    def is_authentic(self, cluster: str) -> bool:
        """Returns whether its subject signed it for this cluster. Costs one signature check."""
        return verify(self.peer_id, self.signature, self._domain, *self._signed_parts(cluster))

    @property
    def _domain(self) -> bytes:
        return ATTRIBUTED_RECORD_DOMAIN if self.attributes else RECORD_DOMAIN

    def _signed_parts(self, cluster: str) -> tuple[DigestPart, ...]:
        addresses = ",".join(str(address) for address in self.addresses)
        parts = (
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
        return (*parts, self.attributes) if self.attributes else parts


@dataclass(frozen=True, slots=True)
class Accusation:
    """The signed statement of `accuser` that a member answers neither it nor its helpers."""

    accuser: PeerId
    signature: bytes

    @classmethod
    def signed(cls, identity: Identity, cluster: str, accused: PeerRecord) -> Accusation:
        """Returns an accusation by `identity` of the epoch and incarnation in the record `accused`."""
        accuser = identity.peer_id
        return cls(
            accuser, identity.sign(ACCUSATION_DOMAIN, *_accusation_parts(cluster, accuser, accused))
        )

    def is_authentic(self, cluster: str, accused: PeerRecord) -> bool:
        """Returns whether its accuser signed it for exactly this epoch and incarnation. Costs one
        signature check."""
        parts = _accusation_parts(cluster, self.accuser, accused)
        return verify(self.accuser, self.signature, ACCUSATION_DOMAIN, *parts)


def _accusation_parts(cluster: str, accuser: PeerId, accused: PeerRecord) -> tuple[DigestPart, ...]:
    return (cluster, accuser, accused.peer_id, accused.epoch, accused.incarnation)


@dataclass(frozen=True, slots=True)
class Rumor:
    """The unit that an origin signs and that is relayed, cached and repaired as a whole.

    It holds one or more payloads with consecutive sequences from `first`, concatenated in `body`
    with the sizes `lengths`. `attributes` are encoded (see `wire.attributes`) and apply to all of them.

    A rumor with attributes can prove itself without its body: `without_body` keeps the hash `body_hash` in
    its place. Only such a rumor has one.
    """

    origin: PeerId
    epoch: int
    first: int
    lengths: tuple[int, ...]
    body: bytes
    signature: bytes = b""
    attributes: bytes = b""
    body_hash: bytes = b""

    @classmethod
    def signed(
        cls,
        identity: Identity,
        cluster: str,
        epoch: int,
        first: int,
        payloads: tuple[bytes, ...],
        *,
        attributes: bytes = b"",
    ) -> Rumor:
        """Returns a rumor of `identity`, signed for `cluster`."""
        origin, lengths, body = identity.peer_id, tuple(map(len, payloads)), b"".join(payloads)
        domain, parts = _statement_of(cluster, origin, epoch, first, lengths, body, attributes)
        signature = identity.sign(domain, *parts)
        return cls(origin, epoch, first, lengths, body, signature, attributes)

    def is_authentic(self, cluster: str) -> bool:
        """Returns whether its origin signed it for this cluster. Costs one hash, with attributes two, and one
        signature check."""
        domain, parts = _statement_of(
            cluster,
            self.origin,
            self.epoch,
            self.first,
            self.lengths,
            self.body,
            self.attributes,
            self.body_hash,
        )
        return verify(self.origin, self.signature, domain, *parts)

    def without_body(self) -> Rumor:
        """Returns the rumor with the hash of its body in place of it. It must have attributes."""
        if self.body_hash:
            return self
        return replace(self, body=b"", body_hash=digest(BODY_DOMAIN, self.body))

    @property
    def has_body(self) -> bool:
        """Whether its payloads are here."""
        return not self.body_hash

    @property
    def known_attributes(self) -> RumorAttributes:
        """Its attributes as this version understands them."""
        return parse_rumor_attributes(self.attributes) if self.attributes else PLAIN

    @property
    def stream(self) -> Stream:
        """The stream it belongs to."""
        return Stream(self.origin, self.epoch)

    @property
    def last(self) -> int:
        """Sequence of its last payload."""
        return self.first + len(self.lengths) - 1

    @property
    def ids(self) -> StreamRange:
        """Range of the sequences of its payloads, which identifies it."""
        return StreamRange(self.stream, self.first, self.last)

    @property
    def size_bytes(self) -> int:
        """Upper bound of the encoded size of a copy, for filling a message without the codec."""
        payloads = sum(map(counted_payload_bytes, self.lengths))
        attributes = _field_bytes(self.attributes) if self.attributes else 0
        return RUMOR_COPY_OVERHEAD_BYTES + payloads + attributes

    def payloads(self) -> list[tuple[MessageId, bytes]]:
        """Returns each payload with its message ID, in order."""
        start, pairs = 0, []
        for offset, length in enumerate(self.lengths):
            message_id = MessageId(self.origin, self.epoch, self.first + offset)
            pairs.append((message_id, self.body[start : start + length]))
            start += length
        return pairs


def _statement_of(
    cluster: str,
    origin: PeerId,
    epoch: int,
    first: int,
    lengths: tuple[int, ...],
    body: bytes,
    attributes: bytes,
    body_hash: bytes = b"",
) -> tuple[bytes, tuple[DigestPart, ...]]:
    """What the origin of a rumor signs: the domain and its parts."""
    encoded_lengths = b"".join([length.to_bytes(4, "big") for length in lengths])
    parts = (cluster, origin, epoch, first, encoded_lengths)
    if not attributes:
        return RUMOR_DOMAIN, (*parts, body)
    # The hash stands for the body, so that the header can prove itself without it.
    return ATTRIBUTED_RUMOR_DOMAIN, (*parts, body_hash or digest(BODY_DOMAIN, body), attributes)


def is_large(rumor: Rumor) -> bool:
    """Whether `rumor` is pulled. A rumor of many small payloads is not: they would each wait for a
    round trip.
    """
    is_long = len(rumor.body) > PUSH_LIMIT_BYTES or bool(rumor.body_hash)
    return is_long and is_pulled(max(rumor.lengths))


def is_announced_by_topic(rumor: Rumor) -> bool:
    """Whether `rumor` is announced with its signed header, so that nodes that do not deliver its topic need
    not pull it."""
    if not rumor.attributes or len(rumor.lengths) > 1 or not is_large(rumor):
        return False
    return not rumor.has_body or bool(rumor.known_attributes.topic)


@dataclass(frozen=True, slots=True)
class TraceReceipt:
    """Confirms that `member` has a traced message, with hops and delay.

    Signed by the member if others relay it. `relays` counts them, unsigned.
    """

    member: PeerId
    hops: int
    delay_ms: int
    relays: int = 0
    signature: bytes = b""

    @property
    def key(self) -> PeerId:
        """Distinguishes it from the others for the same message."""
        return self.member

    @property
    def size_bytes(self) -> int:
        """Upper bound of its encoded size."""
        return RECEIPT_BYTES

    def signed(self, identity: Identity, cluster: str, message_id: MessageId) -> Self:
        """Returns the receipt for `message_id` signed by `identity`, which must be its member."""
        signature = identity.sign(RECEIPT_DOMAIN, *self._signed_parts(cluster, message_id))
        return replace(self, signature=signature)

    def relayed(self) -> Self:
        """Returns it as the next peer gets it, with one relay more."""
        return replace(self, relays=self.relays + 1)

    def is_authentic(self, cluster: str, message_id: MessageId) -> bool:
        """Returns whether its member signed it for this message. Costs one signature check."""
        parts = self._signed_parts(cluster, message_id)
        return verify(self.member, self.signature, RECEIPT_DOMAIN, *parts)

    def _signed_parts(self, cluster: str, message_id: MessageId) -> tuple[DigestPart, ...]:
        origin, epoch, sequence, _ = message_id
        return (cluster, origin, epoch, sequence, self.member, self.hops, self.delay_ms)


class AnswerCode(IntEnum):
    """What an answer says of the question, on the wire."""

    ACK = 0  # its handler still works; another answer follows
    ANSWER = 1
    REFUSED = 2  # no handler, or it is busy
    FAILED = 3
    LARGE = 4  # the payload is `LargeAnswer`, a description of what may be fetched


@dataclass(frozen=True, slots=True)
class QueryAnswer:
    """The answer of `member` to a query, with the hops and the delay after which the question reached it.

    `index` tells several answers of one member apart. Signed by the member if others relay it. `relays`
    counts them, unsigned.
    """

    member: PeerId
    index: int
    hops: int
    delay_ms: int
    status: AnswerCode
    payload: bytes = b""
    relays: int = 0
    signature: bytes = b""

    @property
    def key(self) -> tuple[PeerId, int, bool]:
        """Member, index and whether it is an ACK: each member may acknowledge and answer."""
        return self.member, self.index, self.status is AnswerCode.ACK

    @property
    def size_bytes(self) -> int:
        """Upper bound of its encoded size."""
        return ANSWER_OVERHEAD_BYTES + len(self.payload)

    def signed(self, identity: Identity, cluster: str, message_id: MessageId) -> Self:
        """Returns the answer to `message_id` signed by `identity`, which must be its member."""
        signature = identity.sign(ANSWER_DOMAIN, *self._signed_parts(cluster, message_id))
        return replace(self, signature=signature)

    def relayed(self) -> Self:
        """Returns it as the next peer gets it, with one relay more."""
        return replace(self, relays=self.relays + 1)

    def is_authentic(self, cluster: str, message_id: MessageId) -> bool:
        """Returns whether its member signed it for this query. Costs one signature check."""
        parts = self._signed_parts(cluster, message_id)
        return verify(self.member, self.signature, ANSWER_DOMAIN, *parts)

    def _signed_parts(self, cluster: str, message_id: MessageId) -> tuple[DigestPart, ...]:
        origin, epoch, sequence, _ = message_id
        query = (cluster, origin, epoch, sequence)
        answer = (self.member, self.index, self.hops, self.delay_ms, int(self.status), self.payload)
        return query + answer


class LargeAnswer(NamedTuple):
    """Describes an answer that its member keeps for a while to be fetched."""

    size_bytes: int
    hash: bytes

    @classmethod
    def describing(cls, body: bytes) -> LargeAnswer:
        """Returns the description of `body`."""
        return cls(len(body), digest(ANSWER_BODY_DOMAIN, body))

    @classmethod
    def parse(cls, payload: bytes) -> LargeAnswer | None:
        """Parses the payload of an answer with the status LARGE; None if it makes no sense."""
        size_bytes, hash_ = int.from_bytes(payload[:4], "big"), payload[4:]
        if len(hash_) != 32 or not MAX_ANSWER_BYTES < size_bytes <= MAX_LARGE_ANSWER_BYTES:
            return None
        return cls(size_bytes, hash_)

    def to_payload(self) -> bytes:
        """Returns the payload that describes it."""
        return self.size_bytes.to_bytes(4, "big") + self.hash

    def describes(self, body: bytes) -> bool:
        """Whether `body` is the answer."""
        return self == LargeAnswer.describing(body)
