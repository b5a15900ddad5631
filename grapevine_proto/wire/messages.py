"""The messages of the protocol, as two unions.

`OverlayMessage` is what peers exchange about the cluster; `Frame` and `LinkFrame` are what the two
ends of a link exchange about the link. Signed values are in `signed`, packets of the handshake in
`packets`; `codec` exports the encodings.

Invariants:

- Hops and age of a rumor copy are unsigned claims of its sender. They only limit how long it is
  relayed.
- A message is distinguished by its type, never by `==`: tuples of two types with the same fields are equal.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple, TypeAlias

from grapevine_proto.ids import Address, MessageId, PeerId, StreamRange
from grapevine_proto.wire.entry_terms import Version
from grapevine_proto.wire.signed import (
    Accusation,
    PeerRecord,
    QueryAnswer,
    Rumor,
    TraceReceipt,
    is_announced_by_topic,
)

DIRECT_MAIL_HOPS: Final = 255
"""Replaces the hops of a copy that its origin sends to every member itself: receivers do not relay
it. Counts as one hop; a copy that really traveled that far states one less."""


GAP_REQUEST_ROUND: Final = 0  # round number of gap requests, outside of any round
LAZY_REQUEST_ROUND: Final = (1 << 32) - 1  # round number of requests after lazy push
REPAIR_DATAGRAMS_LIMIT: Final = 32  # messages that answer one repair request; they cost no token
ID_PREFIX_BYTES: Final = 4  # of a member's ID, enough to distinguish members in a `MemberDigest`
OWNER_PREFIX_BYTES: Final = 8  # of an owner's ID, enough to distinguish owners of state entries
STATE_SUM_BYTES: Final = 16
STATE_BUCKETS: Final = 256  # of owners, by the first byte of their IDs
BUCKET_SUM_BYTES: Final = 4
RELAY_MARK_BYTES: Final = 8  # of a peer's ID, enough to tell the peers of a relay apart
HEAD_DIGEST_BYTES: Final = 4  # tells two contents of one version apart


class Kind(IntEnum):
    """The first byte of the plaintext of a packet. Rate limits charge packets by it."""

    CONFIRM = 0
    CLOSE = 1
    HEARTBEAT = 2
    RECORDS = 3
    RUMORS = 4
    DIRECT_MESSAGE = 5
    DIGEST = 6
    IN_SYNC = 7
    VECTOR = 8
    IWANT = 9
    REPAIR = 10
    IHAVE = 11
    PING = 25
    PING_REQ = 26
    PING_ACK = 27
    MEMBER_UPDATES = 28
    MEMBER_DIGEST = 29
    FRAGMENT = 12
    REPAIR_FRAGMENT = 13  # of a Repair: charged to the repair credit
    RETRANSMIT = 14
    ACK = 15
    MTU_PROBE = 16
    PATH_CHALLENGE = 17
    PATH_RESPONSE = 18
    OPEN_TRANSIENT = 19
    RECEIPTS = 35
    RECEIPT_ACK = 36
    SUBSCRIBE = 20
    GRAFT = 21
    PRUNE = 22
    OFFER = 23
    ANNOUNCE = 24
    NEIGHBOR_REQUEST = 30
    SWAP_REQUEST = 31
    ANSWERS = 40
    ANSWER_ACK = 41
    ANSWER_FETCH = 42
    ANNOUNCE_TOPIC = 43
    STATE_DIGEST = 44
    STATE_HEADS = 45
    STATE_REQUEST = 46
    STATE_DELTA = 47
    OBSERVED_ADDRESS = 48
    INTRODUCE = 49
    RELAYED = 50
    INTRODUCTION = 54
    PAUSE = 58
    DIRECT_RECEIPT = 59
    PIGGYBACKED_ACK = 60


LINK_FRAME_KINDS: Final = frozenset(
    {
        Kind.FRAGMENT,
        Kind.REPAIR_FRAGMENT,
        Kind.RETRANSMIT,
        Kind.ACK,
        Kind.MTU_PROBE,
        Kind.PATH_CHALLENGE,
        Kind.PATH_RESPONSE,
        Kind.PIGGYBACKED_ACK,
    }
)
"""Kinds that links exchange and do not pass on."""


RECEIPT_ABOVE_BYTES: Final = 1000
"""Larger direct messages are confirmed by a receipt. Smaller ones are never fragmented, so that the
acknowledgment of their packet proves that they arrived whole."""


class CloseReason(IntEnum):
    """Why one end closes a link."""

    LEAVING = 0  # the node goes away
    FULL = 1  # no room for another peer; carries referrals
    MISCONDUCT = 2  # bad signatures, or denied
    KEY_REMOVED = 3  # the cluster key of this session is no longer accepted
    REDUNDANT = 4  # one of two links with the same peer, or one too many
    SUPERSEDED = 5  # a higher epoch of the receiver's identity is in use; carries its record


class MemberUpdate(NamedTuple):
    """A suspicion of the record's subject, with its accusations; without any, a refutation: the
    subject has recently sent this record."""

    record: PeerRecord
    accusations: tuple[Accusation, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Upper bound of its encoded size, for filling a datagram without the codec."""
        return self.record.size_bytes + 2 + 102 * len(self.accusations)


class RumorCopy(NamedTuple):
    """A rumor in transit, with the hops it traveled and its age."""

    rumor: Rumor
    hops: int
    age_ms: int
    holder: PeerId | None = None
    """Of a rumor without its body: a member that is said to have it. Not part of an encoded copy."""

    def aged(self, seconds: float) -> RumorCopy:
        """The same copy, `seconds` later."""
        return self._replace(age_ms=self.age_ms + int(seconds * 1000))


# --- overlay messages ---------------------------------------------------------------------------


class Heartbeat(NamedTuple):
    """Shows that the sender is alive.

    `echo` repeats the number of the peer's latest heartbeat, which arrived `echo_delay_us` ago: each end
    computes the round-trip time without a shared clock. `streams` and `checksum` are the digest of the
    sequence tracker. `records` spread member records. `coordinate`: the encoded network coordinate of the
    sender (see `grapevine_proto.coordinate`); empty if it has hardly moved since the last one.
    """

    number: int
    echo: int
    echo_delay_us: int
    load_permille: int
    streams: int
    checksum: bytes
    records: tuple[PeerRecord, ...]
    coordinate: bytes = b""


class Records(NamedTuple):
    """Records of members; of the sender itself when its record changed or it leaves."""

    records: tuple[PeerRecord, ...]


class Rumors(NamedTuple):
    """Eager push: rumors with their payloads."""

    copies: tuple[RumorCopy, ...]


class DirectMessage(NamedTuple):
    """A payload for the receiver only, with a sequence apart from broadcasts."""

    sequence: int
    payload: bytes


class DirectReceipt(NamedTuple):
    """Confirms a direct message of more than `RECEIPT_ABOVE_BYTES` as a whole."""

    sequence: int


class Digest(NamedTuple):
    """Starts an anti-entropy round."""

    round: int
    streams: int
    checksum: bytes


class InSync(NamedTuple):
    """Reply to Digest: nothing differs."""

    round: int


class Vector(NamedTuple):
    """One of `pages` pages with, for each stream, the lowest cached (`first`) and the highest seen
    (`last`) sequence of the sender. `is_reply`: the sender did not start this round."""

    round: int
    is_reply: bool
    page: int
    pages: int
    entries: tuple[StreamRange, ...]


class IWant(NamedTuple):
    """Requests the cached rumors of these ranges."""

    round: int
    ranges: tuple[StreamRange, ...]


class Repair(NamedTuple):
    """Requested rumors. `has_more`: the reply was cut, request again."""

    round: int
    is_last: bool
    has_more: bool
    copies: tuple[RumorCopy, ...]


class IHave(NamedTuple):
    """Lazy push: ranges of rumors that the sender has and did not push to the receiver."""

    ranges: tuple[StreamRange, ...]


class Ping(NamedTuple):
    """Requests a sign of life. Carries gossip updates, first of all suspicions of the receiver."""

    number: int
    updates: tuple[MemberUpdate, ...] = ()


class PingReq(NamedTuple):
    """Asks the receiver to ping `subject` (SWIM's ping-req)."""

    number: int
    subject: PeerId


class PingAck(NamedTuple):
    """Reply to Ping, or to PingReq: `is_alive` states whether the subject replied."""

    number: int
    is_alive: bool


class MemberUpdates(NamedTuple):
    """Suspicions and refutations."""

    updates: tuple[MemberUpdate, ...]


class MemberDigest(NamedTuple):
    """The members known to the sender whose IDs begin with four bytes from `first` to `last`: those
    four bytes of each, concatenated. `is_reply`: the sender wants records and no list in return."""

    first: int
    last: int
    id_prefixes: bytes
    is_reply: bool = False

    def to_prefixes(self) -> list[int]:
        """Returns the prefixes as numbers."""
        starts = range(0, len(self.id_prefixes), ID_PREFIX_BYTES)
        return [
            int.from_bytes(self.id_prefixes[start : start + ID_PREFIX_BYTES], "big")
            for start in starts
        ]


class Receipts(NamedTuple):
    """Receipts of the traced message `message_id` on their way to its origin. `number` is repeated in
    `ReceiptAck`."""

    number: int
    message_id: MessageId
    receipts: tuple[TraceReceipt, ...]


class ReceiptAck(NamedTuple):
    """Acknowledges the `Receipts` with this number."""

    number: int


class Answers(NamedTuple):
    """Answers to the query `message_id` on their way to its origin. `number` is repeated in `AnswerAck`; 0:
    the reply to an `AnswerFetch`, which is not acknowledged."""

    number: int
    message_id: MessageId
    answers: tuple[QueryAnswer, ...]


class AnswerAck(NamedTuple):
    """Acknowledges the `Answers` with this number."""

    number: int


class AnswerFetch(NamedTuple):
    """Requests the receiver's large answer number `answer_index` to a query of the sender."""

    message_id: MessageId
    answer_index: int


class Offer(NamedTuple):
    """Ranges of rumors that the sender has and will not push; the receiver may request them at once."""

    ranges: tuple[StreamRange, ...]


class Announce(NamedTuple):
    """A large rumor that the sender has and will not push; the receiver may pull it."""

    ids: StreamRange
    size_bytes: int


class AnnounceTopic(NamedTuple):
    """A large rumor of a topic without its body. A receiver that subscribes to the topic pulls the body:
    from the sender, or if that has none, from `copy.holder`."""

    copy: RumorCopy
    has_body: bool


def announcement(copy: RumorCopy, sender: PeerId) -> Announce | AnnounceTopic:
    """Returns the message with which `sender` announces the large rumor of `copy`, as it is to arrive."""
    rumor = copy.rumor
    if not is_announced_by_topic(rumor):
        return Announce(rumor.ids, rumor.size_bytes)
    holder = sender if rumor.has_body else copy.holder
    return AnnounceTopic(copy._replace(holder=holder), rumor.has_body)


class StateDigest(NamedTuple):
    """The sum of the heads of all maps of entries that the sender has. `buckets`: the sums of each bucket
    of owners, cut to `BUCKET_SUM_BYTES` and joined, to ask for the heads that differ; empty: does not ask.
    """

    sum: bytes
    buckets: bytes = b""


class StateHead(NamedTuple):
    """What the sender has of the map of one owner: the version, and the beginning of its digest."""

    owner_prefix: bytes
    version: Version
    digest: bytes


class StateHeads(NamedTuple):
    """Heads of the sender. `covered` is a bit for each bucket of owners, the first in the highest bit of the
    first byte: of these the message has all heads. `is_reply`: the sender wants no heads in return."""

    is_reply: bool
    covered: bytes
    heads: tuple[StateHead, ...]


class StateWant(NamedTuple):
    """Requests the entries of one owner above a version."""

    owner_prefix: bytes
    above: Version


class StateRequest(NamedTuple):
    """Requests entries. `number` is repeated in the reply."""

    number: int
    wants: tuple[StateWant, ...]


class StateDelta(NamedTuple):
    """Requested entries, owner by owner and oldest first. Of each owner a reply has all that is newer than
    the version in the request, the whole map if keys were collected since, or nothing for lack of room."""

    number: int
    is_last: bool
    copies: tuple[RumorCopy, ...]


class Subscribe(NamedTuple):
    """Asks for eager push of everything the receiver gets first, or ends it."""

    is_subscribed: bool


class Graft(NamedTuple):
    """Adds the link to the tree of `origin`; None: to the shared tree of origins without one of
    their own."""

    origin: PeerId | None


class Prune(NamedTuple):
    """Removes the link from that tree: only IDs go over it."""

    origin: PeerId | None


class Pause(NamedTuple):
    """Backpressure: asks the receiver to hold back rumors for `duration_ms`; 0 ends the pause."""

    duration_ms: int


class ObservedAddress(NamedTuple):
    """The address that the receiver's packets come from, which its record does not contain."""

    address: Address


class Introduce(NamedTuple):
    """Asks the receiver to introduce the sender and `subject` to each other, so that both dial at once and
    their NATs let them in. `is_transient`: for a transient session instead of a link."""

    subject: PeerId
    is_transient: bool


class Introduction(NamedTuple):
    """The subject of `record` is at `address`, as the sender sees it, and dials the receiver now: the
    receiver dials it too. `is_transient` as in `Introduce`."""

    record: PeerRecord
    address: Address
    is_transient: bool


class Relayed(NamedTuple):
    """A datagram on its way through the receiver to the peer whose ID begins with `mark`; with `is_forwarded`
    one that the receiver is the end of, from that peer."""

    is_forwarded: bool
    mark: bytes
    datagram: bytes


GossipMessage: TypeAlias = (
    Heartbeat
    | Records
    | Rumors
    | Digest
    | InSync
    | Vector
    | IWant
    | Repair
    | IHave
    | Ping
    | PingReq
    | PingAck
    | MemberUpdates
    | MemberDigest
    | Receipts
    | ReceiptAck
    | Answers
    | AnswerAck
    | AnswerFetch
    | StateDigest
    | StateHeads
    | StateRequest
    | StateDelta
    | ObservedAddress
    | Introduction
    | Offer
    | Announce
    | AnnounceTopic
    | Subscribe
    | Graft
    | Prune
)
"""What the overlay handles."""
OverlayMessage: TypeAlias = (
    GossipMessage | DirectMessage | DirectReceipt | Pause | Introduce | Relayed
)

# --- frames of one link -------------------------------------------------------------------------


class Confirm(NamedTuple):
    """Proves that the sender has the session keys."""


class NeighborRequest(NamedTuple):
    """Opens a session in place of Confirm: asks a full receiver to make room (HyParView)."""


class SwapRequest(NamedTuple):
    """Opens a session in place of Confirm and offers a link swap (X-BOT): if the sender is nearer
    than one of the receiver's links, the receiver closes that one, and the sender closes its link
    to `swap_for`. The two evicted peers can then connect to each other."""

    swap_for: PeerRecord


class Close(NamedTuple):
    """Closes the link. `records` are referrals, or the record that outranks the receiver."""

    reason: CloseReason
    records: tuple[PeerRecord, ...] = ()


class OpenTransient(NamedTuple):
    """Opens a transient session in place of Confirm."""


Frame: TypeAlias = Confirm | NeighborRequest | SwapRequest | Close | OpenTransient


class Fragment(NamedTuple):
    """`body` at `offset` of message `number` of this link, which has `total_bytes`. `is_repair`:
    the message is a Repair."""

    number: int
    total_bytes: int
    offset: int
    body: bytes
    is_repair: bool = False


class Retransmit(NamedTuple):
    """The message of packet `counter` of session `session_id`, which seems lost. A receiver that
    has the packet drops this one."""

    session_id: bytes
    counter: int
    plaintext: bytes


class Ack(NamedTuple):
    """Acknowledges the packets of `session_id` from `first` up to but excluding `end`, except the
    `missing` ranges. Packet `latest` arrived `delay_us` before this was sent."""

    session_id: bytes
    first: int
    end: int
    latest: int
    delay_us: int
    missing: tuple[tuple[int, int], ...]


class PiggybackedAck(NamedTuple):
    """`ack`, in one packet with another message, which may be of any kind but this one."""

    ack: Ack
    plaintext: bytes


class MtuProbe(NamedTuple):
    """Padding to a size that the path may or may not carry (RFC 8899)."""

    padding: int


class PathChallenge(NamedTuple):
    """Tests an address (RFC 9000, section 8.2)."""

    token: bytes


class PathResponse(NamedTuple):
    """Reply to PathChallenge, with its token."""

    token: bytes


LinkFrame: TypeAlias = (
    Fragment | Retransmit | Ack | PiggybackedAck | MtuProbe | PathChallenge | PathResponse
)
"""One type for each of `LINK_FRAME_KINDS`, except that both kinds of fragments share one."""
