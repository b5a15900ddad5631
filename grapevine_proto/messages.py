"""What nodes say to each other: two unions, so that nonsense is unsayable.

`OverlayMessage` is what peers say about the cluster; `Frame` is what the two ends of one link say
about the link. Packets of the handshake are in `codec`, which alone knows how any of this looks
as bytes.

What must stay true:

- A `Record` and a `Rumor` prove themselves: everything in them but the signature is signed, under
  a domain and the cluster's name, so a copy of one is as good as hearing it from its subject.
- An `Accusation` proves who makes it, and counts against one run and incarnation of one member: whatever
  its subject signs later makes it void.
- What travels *beside* a rumor (hops, age) is a claim of whoever sent it and decides nothing but
  how long to bother.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final, TypeAlias

from grapevine_proto.identity import Identity, Part, verify
from grapevine_proto.ids import Address, MessageId, PeerId, Stream, Zone

RECORD_DOMAIN: Final = b"grapevine record 1"
RUMOR_DOMAIN: Final = b"grapevine rumor 1"
ACCUSATION_DOMAIN: Final = b"grapevine accusation 1"
TRACED_DOMAIN: Final = b"grapevine traced rumor 1"
RECEIPT_DOMAIN: Final = b"grapevine receipt 1"

TRACE_ALL: Final = (1 << 16) - 1  # the share of members that means every one

MAILED_HOPS: Final = 255
"""In place of the hops of a copy: its origin gives it to every member itself, so nobody needs to pass
it on. Counts as one hop; a copy that truly came so far says one less."""

COPY_OVERHEAD_BYTES: Final = 150  # of a rumor's copy beside its payloads, rounded up


def bytes_in_rumor(length: int) -> int:
    """What a payload of `length` bytes takes in a rumor: itself, and its length as msgpack writes it."""
    if length < 1 << 7:
        return length + 1
    if length < 1 << 8:
        return length + 2
    return length + (3 if length < 1 << 16 else 5)


class Kind(IntEnum):
    """The first byte inside a sealed packet: what it is, and so what it is charged as."""

    EMPTY = 0
    CLOSE = 1
    HEARTBEAT = 2
    RECORDS = 3
    RUMORS = 4
    PRIVATE = 5
    DIGEST = 6
    IN_SYNC = 7
    VECTOR = 8
    WANT = 9
    REPAIR = 10
    IDS = 11
    PING = 25
    PING_FOR = 26
    ACK = 27
    OPINIONS = 28
    FRAGMENT = 12
    REPAIR_FRAGMENT = 13  # of a Repair, which whoever asked for it pays otherwise
    AGAIN = 14
    FEEDBACK = 15
    PROBE = 16
    PATH_CHECK = 17
    PATH_ANSWER = 18
    SHORT = 19
    RECEIPTS = 35
    RECEIPTS_TAKEN = 36
    SUBSCRIBE = 20
    GRAFT = 21
    PRUNE = 22
    OFFER = 23
    ANNOUNCE = 24
    ASK = 30
    NEAR = 31


LINK_KINDS: Final = frozenset(
    {
        Kind.FRAGMENT,
        Kind.REPAIR_FRAGMENT,
        Kind.AGAIN,
        Kind.FEEDBACK,
        Kind.PROBE,
        Kind.PATH_CHECK,
        Kind.PATH_ANSWER,
    }
)
"""What the links say to each other and nobody beyond them hears."""


class CloseReason(IntEnum):
    """Why one end closes a link."""

    LEAVING = 0  # the node goes away
    FULL = 1  # no room for another peer; it says who may have some
    MISCONDUCT = 2  # bad signatures, or denied
    KEY_REMOVED = 3  # the cluster key of this session is no longer ours
    SURPLUS = 4  # one of two links with the same peer, or one too many
    OUTRANKED = 5  # a higher epoch of the receiver's own identity is about; its record came along


@dataclass(frozen=True, slots=True)
class Record:
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

    def signed(self, identity: Identity, cluster: str) -> Record:
        """This record with `identity`'s signature; `identity` must be its subject."""
        signature = identity.sign(RECORD_DOMAIN, *self._signed_parts(cluster))
        return replace(self, signature=signature)

    def is_authentic(self, cluster: str) -> bool:
        """Whether its subject signed it for this cluster. One signature check."""
        return verify(self.peer_id, self.signature, RECORD_DOMAIN, *self._signed_parts(cluster))

    def _signed_parts(self, cluster: str) -> tuple[Part, ...]:
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
    def signed(cls, identity: Identity, cluster: str, against: Record) -> Accusation:
        """`identity`'s accusation of the run and incarnation that `against` tells of."""
        who = identity.peer_id
        return cls(who, identity.sign(ACCUSATION_DOMAIN, *_accused_parts(cluster, who, against)))

    def is_authentic(self, cluster: str, against: Record) -> bool:
        """Whether its accuser says this of exactly this run and incarnation. One signature check."""
        parts = _accused_parts(cluster, self.accuser, against)
        return verify(self.accuser, self.signature, ACCUSATION_DOMAIN, *parts)


def _accused_parts(cluster: str, accuser: PeerId, against: Record) -> tuple[Part, ...]:
    return (cluster, accuser, against.peer_id, against.epoch, against.incarnation)


@dataclass(frozen=True, slots=True)
class Opinion:
    """What is thought of a record's subject: that it does not answer, if there are accusations; if
    there are none, that it has lately said this of itself."""

    record: Record
    accusations: tuple[Accusation, ...] = ()

    @property
    def size_bytes(self) -> int:
        """How many bytes it takes in a message, at most: for filling a datagram without the codec."""
        return self.record.size_bytes + 2 + 102 * len(self.accusations)


@dataclass(frozen=True, slots=True)
class Rumor:
    """What an origin signs and what relays, stores and repairs move whole: one or more payloads
    with consecutive sequences from `first`, joined in `body` and cut by `lengths`.

    `trace_share`: how many of its receivers are asked to tell the origin that they have it, of
    `TRACE_ALL` (see `overlay.trace`); 0: nobody."""

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
        bare = cls(identity.peer_id, epoch, first, lengths, body, trace_share=trace_share)
        signature = identity.sign(bare._domain, *bare._signed_parts(cluster))
        return cls(bare.origin, epoch, first, lengths, body, signature, trace_share)

    def is_authentic(self, cluster: str) -> bool:
        """Whether its origin signed it for this cluster. One hash and one signature check."""
        return verify(self.origin, self.signature, self._domain, *self._signed_parts(cluster))

    @property
    def _domain(self) -> bytes:
        return TRACED_DOMAIN if self.trace_share else RUMOR_DOMAIN

    def _signed_parts(self, cluster: str) -> tuple[Part, ...]:
        cuts = b"".join(length.to_bytes(4, "big") for length in self.lengths)
        parts = (cluster, self.origin, self.epoch, self.first, cuts, self.body)
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
        return COPY_OVERHEAD_BYTES + sum(map(bytes_in_rumor, self.lengths))

    def payloads(self) -> list[tuple[MessageId, bytes]]:
        """Each payload with its message id, in order."""
        start, found = 0, []
        for offset, length in enumerate(self.lengths):
            message_id = MessageId(self.origin, self.epoch, self.first + offset)
            found.append((message_id, self.body[start : start + length]))
            start += length
        return found


@dataclass(frozen=True, slots=True)
class RumorCopy:
    """A rumor on its way: how many nodes relayed it and for how long it has been about."""

    rumor: Rumor
    hops: int
    age_ms: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """`member` has a traced message, after so many hops and so long after it was sent. Signed by
    the member where others pass it on; `relays` is how many did, and nobody's word."""

    member: PeerId
    hops: int
    delay_ms: int
    relays: int = 0
    signature: bytes = b""

    def signed(self, identity: Identity, cluster: str, message_id: MessageId) -> Receipt:
        """This receipt for `message_id` with `identity`'s signature; `identity` must be its member."""
        signature = identity.sign(RECEIPT_DOMAIN, *self._signed_parts(cluster, message_id))
        return replace(self, signature=signature)

    def is_authentic(self, cluster: str, message_id: MessageId) -> bool:
        """Whether its member signed it for this message. One signature check."""
        parts = self._signed_parts(cluster, message_id)
        return verify(self.member, self.signature, RECEIPT_DOMAIN, *parts)

    def _signed_parts(self, cluster: str, message_id: MessageId) -> tuple[Part, ...]:
        origin, epoch, sequence, _ = message_id
        return (cluster, origin, epoch, sequence, self.member, self.hops, self.delay_ms)


@dataclass(frozen=True, slots=True)
class StreamRange:
    """Sequences `first` to `last`, both included, of one stream."""

    stream: Stream
    first: int
    last: int

    @property
    def ends(self) -> tuple[int, int]:
        return self.first, self.last


# --- overlay messages ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """I am here. `echo` is the number of the peer's last heartbeat, `echo_delay_us` how long ago it
    came, so that each end learns the round-trip time without a shared clock. `streams` and `total`
    are the digest of what was seen; `records` tell of other members."""

    number: int
    echo: int
    echo_delay_us: int
    load_permille: int
    streams: int
    total: bytes
    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class Records:
    """Members that the sender knows of, itself included when it changed or leaves."""

    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class Rumors:
    """Pushed rumors."""

    copies: tuple[RumorCopy, ...]


@dataclass(frozen=True, slots=True)
class Private:
    """A payload for the receiver alone, numbered apart from broadcasts."""

    sequence: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Digest:
    """Opens an anti-entropy round: do we differ?"""

    round: int
    streams: int
    total: bytes


@dataclass(frozen=True, slots=True)
class InSync:
    """Answers a Digest: we do not."""

    round: int


@dataclass(frozen=True, slots=True)
class Vector:
    """Which sequences of which streams the sender still holds (`first`: the lowest held, `last`: the
    highest seen), as one of `pages`. `answering`: the sender did not begin this round."""

    round: int
    answering: bool
    page: int
    pages: int
    entries: tuple[StreamRange, ...]


@dataclass(frozen=True, slots=True)
class Want:
    """Please send what you hold of these."""

    round: int
    ranges: tuple[StreamRange, ...]


@dataclass(frozen=True, slots=True)
class Repair:
    """Rumors that were asked for. `more`: the answer was cut short, ask again."""

    round: int
    is_last: bool
    more: bool
    copies: tuple[RumorCopy, ...]


@dataclass(frozen=True, slots=True)
class Ids:
    """Rumors that the sender holds and did not send to the receiver, one range each."""

    ranges: tuple[StreamRange, ...]


@dataclass(frozen=True, slots=True)
class Ping:
    """Are you there? With what is to be told anyway, above all what is said against the receiver."""

    number: int
    opinions: tuple[Opinion, ...] = ()


@dataclass(frozen=True, slots=True)
class PingFor:
    """Please try to reach `subject` for me."""

    number: int
    subject: PeerId


@dataclass(frozen=True, slots=True)
class Ack:
    """Answers a Ping; or a PingFor, when `is_alive` says whether the subject was heard."""

    number: int
    is_alive: bool


@dataclass(frozen=True, slots=True)
class Opinions:
    """Who does not answer, and who was wrongly said not to."""

    opinions: tuple[Opinion, ...]


@dataclass(frozen=True, slots=True)
class Receipts:
    """Who has the traced message `message_id`: on their way to its origin. `number` is the sender's
    own, for `ReceiptsTaken`."""

    number: int
    message_id: MessageId
    receipts: tuple[Receipt, ...]


@dataclass(frozen=True, slots=True)
class ReceiptsTaken:
    """The receipts that the receiver sent under `number` are here: it need not send them again."""

    number: int


@dataclass(frozen=True, slots=True)
class Offer:
    """Rumors that the sender holds and will not push to the receiver, who may ask at once."""

    ranges: tuple[StreamRange, ...]


@dataclass(frozen=True, slots=True)
class Announce:
    """A large rumor that the sender holds and will not push: the receiver may pull it."""

    ids: StreamRange
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Subscribe:
    """The sender wants to be pushed what the receiver hears first, or no longer."""

    wanted: bool


@dataclass(frozen=True, slots=True)
class Graft:
    """From now on the link belongs to the tree along which rumors of `origin` are pushed; None: the
    tree of all origins that have none of their own."""

    origin: PeerId | None


@dataclass(frozen=True, slots=True)
class Prune:
    """The link no longer belongs to that tree: ids go over it instead."""

    origin: PeerId | None


OverlayMessage: TypeAlias = (
    Heartbeat
    | Records
    | Rumors
    | Private
    | Digest
    | InSync
    | Vector
    | Want
    | Repair
    | Ids
    | Ping
    | PingFor
    | Ack
    | Opinions
    | Receipts
    | ReceiptsTaken
    | Offer
    | Announce
    | Subscribe
    | Graft
    | Prune
)

# --- frames of one link -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Empty:
    """Says nothing; that it opens says that the sender has the session's keys."""


@dataclass(frozen=True, slots=True)
class Ask:
    """An Empty by which somebody short of links begins a session: if you have no room, make some."""


@dataclass(frozen=True, slots=True)
class Near:
    """An Empty by which somebody near begins a session: if that is nearer than a link of yours, let it
    go for me. I let `instead` go for you, who has room then for whoever you let go."""

    instead: Record


@dataclass(frozen=True, slots=True)
class Close:
    """The sender closes the link; `records` are whom to try instead, where it has no room."""

    reason: CloseReason
    records: tuple[Record, ...] = ()


@dataclass(frozen=True, slots=True)
class Short:
    """The first word of whoever began a session and wants no link: it will close when nothing is said."""


Frame: TypeAlias = Empty | Ask | Near | Close | Short


@dataclass(frozen=True, slots=True)
class Fragment:
    """`body` from `offset` on of a message of `total_bytes`, which one packet does not hold. `number`
    tells the messages of one link apart. `of_repair`: the message is a Repair."""

    number: int
    total_bytes: int
    offset: int
    body: bytes
    of_repair: bool = False


@dataclass(frozen=True, slots=True)
class Again:
    """The message that packet `counter` of the receiver's session `session_id` carried, and that
    seems lost. Whoever got it after all drops this one."""

    session_id: bytes
    counter: int
    plaintext: bytes


@dataclass(frozen=True, slots=True)
class Feedback:
    """What arrived of the packets that bear `session_id`: all numbers from `first` on and before
    `end` but the `missing` ranges. `latest` came `delay_us` before this went."""

    session_id: bytes
    first: int
    end: int
    latest: int
    delay_us: int
    missing: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Probe:
    """Nothing, at a length that the path may or may not bear."""

    padding: int


@dataclass(frozen=True, slots=True)
class PathCheck:
    """Say this back, if it finds you."""

    token: bytes


@dataclass(frozen=True, slots=True)
class PathAnswer:
    """It found me."""

    token: bytes


LinkFrame: TypeAlias = Fragment | Again | Feedback | Probe | PathCheck | PathAnswer
"""One for each of `LINK_KINDS`, but for the two sorts of fragments."""
